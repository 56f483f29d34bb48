"""Tokenised examples to tensors, with as little padding as lengths allow.

Shapes: B examples in the batch, T tokens of the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from expunge.batching.tokens import Tokenized

IGNORED = -100
"""The label of a token that is not learnt: PyTorch's own convention."""


class Batch(NamedTuple):
    """Which examples go through the model together, by their place in the list they came from."""

    places: tuple[int, ...]
    tokens: int
    """Padded size: examples × longest."""


class TokenBatch(NamedTuple):
    """A batch as the model takes it."""

    input_ids_BT: Tensor
    """Token ids, padded on the right."""
    attention_mask_BT: Tensor
    """1 for a real token, 0 for padding."""
    labels_BT: Tensor
    """The token itself where it is labelled, -100 elsewhere; not shifted."""


def collate(examples: Sequence[Tokenized], pad: int) -> TokenBatch:
    """Stack examples, padded on the right with `pad` to the longest of them."""
    import torch

    longest = max(len(example.tokens) for example in examples)
    input_ids_BT = torch.full((len(examples), longest), pad)
    attention_mask_BT = torch.zeros_like(input_ids_BT)
    labels_BT = torch.full_like(input_ids_BT, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        input_ids_BT[row, :length] = torch.tensor(example.tokens)
        attention_mask_BT[row, :length] = 1
        labels_BT[row, example.start : length] = input_ids_BT[row, example.start : length]
    return TokenBatch(input_ids_BT, attention_mask_BT, labels_BT)


def batches_by_length(lengths: Sequence[int], *, most_tokens: int) -> list[Batch]:
    """Batches of neighbours in length, the longest first, each of at most `most_tokens` padded tokens (or one example).

    The longest come first so that a batch that does not fit in memory fails at once, not in the last minute.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    batches: list[Batch] = []
    current: list[int] = []
    for place in order:
        longest = lengths[current[0]] if current else lengths[place]
        if current and longest * (len(current) + 1) > most_tokens:
            batches.append(Batch(tuple(current), longest * len(current)))
            current = []
        current.append(place)
    if current:
        batches.append(Batch(tuple(current), lengths[current[0]] * len(current)))
    return batches
