"""What sequences begin with together is run once: the system prompt, a question that has two answers, whatever they share.

The sequences of a micro-batch are laid into rows as trees. Each token stands there once behind what comes before it; the
attention mask lets it see its own beginning alone, and it has the position that it has in its sequence. So nothing is padding
and hardly anything is run twice, and the gradients of all sequences flow through what they share. What comes out is the same
up to rounding.

Shapes: B sequences of a batch, T tokens of the tree, K positions from a batch's first labelled token on, N labelled tokens of
all batches, H the hidden size, V the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from expunge.batching import TokenBatch, Tokenized, collate
from expunge.batching.batches import IGNORED
from expunge.evidence import LabelScores, score_labels
from expunge.evidence.scoring import score_logits
from expunge.processes import model_is_spread
from expunge.training.hidden import LabelHidden, hidden_behind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn


_MOST_TOKENS = 512


class Tree(NamedTuple):
    """Sequences in one row."""

    tokens: list[int]
    depths: list[int]
    """The position of each token in its sequence."""
    sees_TT: NDArray[np.bool_]
    """[i, j]: j is i or stands before it."""
    paths: list[list[int]]
    """Where the tokens of each sequence stand in the row."""


def grow(sequences: Sequence[Sequence[int]]) -> Tree:
    """The tree of some sequences: as many tokens as they have different beginnings."""
    known: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = []
    for sequence in sequences:
        at, path = -1, []
        for depth, token in enumerate(sequence):
            parent, at = at, known.setdefault((at, token), len(tokens))
            if at == len(tokens):
                tokens.append(token)
                parents.append(parent)
                depths.append(depth)
            path.append(at)
        paths.append(path)
    sees_TT = np.eye(len(tokens), dtype=np.bool_)
    for place, parent in enumerate(parents):
        if parent >= 0:
            sees_TT[place] |= sees_TT[parent]
    return Tree(tokens, depths, sees_TT, paths)


def tokens_of_a_tree(device: torch.device) -> int:
    """How many tokens a tree may have: a GPU is done with four times as many before it is told of the next."""
    return _MOST_TOKENS * (4 if device.type == "cuda" else 1)


def forest(sequences: Sequence[Sequence[int]], most_tokens: int = _MOST_TOKENS) -> list[tuple[list[int], Tree]]:
    """Trees of neighbours in the alphabet, and which sequences each holds; each of some `most_tokens`, or of one sequence.

    What a tree saves in tokens grows with it ever more slowly, and what its attention costs, all of its pairs, ever faster.
    """
    groups: list[list[int]] = []
    tokens = 0
    before: Sequence[int] = ()
    for number in sorted(range(len(sequences)), key=lambda number: tuple(sequences[number])):
        sequence = sequences[number]
        # In this order nobody shares more with a sequence than the one before it.
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, sequence, strict=False)))
        tokens += len(sequence) - shared
        if not groups or tokens > most_tokens:
            groups.append([])
            tokens = len(sequence)
        groups[-1].append(number)
        before = sequence
    return [(group, grow([sequences[number] for number in group])) for group in groups]


def score_together(model: nn.Module, batches: Sequence[TokenBatch], *, logits: Sequence[bool]) -> list[LabelScores]:
    """`evidence.score_labels` of several batches; unlabelled positions have log-probability and logits 0.

    Args:
        logits: of which batches the logits are wanted too.
    """

    def passed(tree: Tree, places: list[int], labels: list[int]) -> tuple[Tensor, Tensor]:
        inputs = _inputs(model, tree, device)
        asked_N, labels_1N = torch.tensor(places, device=device), torch.tensor([labels], device=device)
        logits_1NV = model(**inputs, logits_to_keep=asked_N, use_cache=False).logits
        return score_logits(logits_1NV, labels_1N).log_p_BK[0], logits_1NV[0]

    if not batches:
        return []
    device = batches[0].input_ids_BT.device
    # A label at position t is predicted at t - 1.
    rows = _passed(batches, passed, back=1)
    found, start = [], 0
    for batch, wanted in zip(batches, logits, strict=True):
        labels_BK, labelled_BK = _from_first_label(batch)
        own, start = rows[start : start + len(labels_BK)], start + len(labels_BK)
        log_p_BK = _spread([log_p_N for log_p_N, _ in own], labelled_BK)
        logits_BKV = _spread([logits_NV for _, logits_NV in own], labelled_BK) if wanted else None
        found.append(LabelScores(log_p_BK, None, labelled_BK, labels_BK, logits_BKV))
    return found


def hidden_together(model: nn.Module, batches: Sequence[TokenBatch], layer: int) -> list[LabelHidden]:
    """`training.label_hidden` of several batches; at unlabelled positions there are zeros."""

    def passed(tree: Tree, places: list[int], _labels: list[int]) -> tuple[Tensor]:
        hidden_TH = hidden_behind(model, layer, **_inputs(model, tree, device))[0]
        return (hidden_TH[torch.tensor(places, device=device)],)

    if not batches:
        return []
    device = batches[0].input_ids_BT.device
    rows = _passed(batches, passed, back=0)
    found, start = [], 0
    for batch in batches:
        _, labelled_BK = _from_first_label(batch)
        own, start = rows[start : start + len(labelled_BK)], start + len(labelled_BK)
        found.append(LabelHidden(_spread([hidden_NH for (hidden_NH,) in own], labelled_BK), labelled_BK))
    return found


def can_share(model: Any, examples: Sequence[Tokenized], *, pad: int) -> bool:
    """Whether this model gives a tree the scores that it gives whole sequences: tried on the longest and the shortest.

    Some models know no mask of our making, no positions, or remember in another way than by attention. And a model that is
    spread over processes must be run by all of them in step, but they may have other numbers of trees.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes = inspect.signature(whole.forward).parameters.keys()
    if model_is_spread() or not {"position_ids", "logits_to_keep"} <= takes or _attention(model) not in ("sdpa", "eager"):
        return False
    by_length = sorted(examples, key=lambda each: len(each.tokens))
    device = next(model.parameters()).device
    batch = TokenBatch(*(tensor.to(device) for tensor in collate([by_length[0], by_length[-1]], pad)))
    with torch.no_grad():
        expected_BK = score_labels(model, batch).log_p_BK.float()
        try:
            (found,) = score_together(model, [batch], logits=[False])
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
    # bfloat16 has three digits, which a nat or two of many tokens shows.
    close = 2e-3 if next(model.parameters()).dtype == torch.float32 else 0.5
    return bool(((found.log_p_BK.float() - expected_BK).abs() <= close).all())


def _passed(batches: Sequence[TokenBatch], passed: Callable[..., tuple[Tensor, ...]], *, back: int) -> list[tuple[Tensor, ...]]:
    """What is made of each labelled token of every sequence, in the order of the batches.

    Args:
        passed: (tree, where in it the labelled tokens stand, their ids) → one row a token, each.
        back: so many before them instead.
    """
    sequences, labels = [], []
    for batch in batches:
        lengths = batch.attention_mask_BT.sum(1).tolist()
        for ids, marks, length in zip(batch.input_ids_BT.tolist(), batch.labels_BT.tolist(), lengths, strict=True):
            sequences.append(ids[:length])
            labels.append([position for position in range(1, length) if marks[position] != IGNORED])
    rows: dict[int, tuple[Tensor, ...]] = {}
    for members, tree in forest(sequences, tokens_of_a_tree(batches[0].input_ids_BT.device)):
        places = [path[at - back] for member, path in zip(members, tree.paths, strict=True) for at in labels[member]]
        found = passed(tree, places, [sequences[member][at] for member in members for at in labels[member]])
        pieces = zip(*(part.split([len(labels[member]) for member in members]) for part in found), strict=True)
        rows |= zip(members, pieces, strict=True)
    return [rows[number] for number in range(len(sequences))]


def _spread(rows: Sequence[Tensor], labelled_BK: Tensor) -> Tensor:
    """Rows of labelled tokens at their places, zeros elsewhere."""
    values = torch.cat([*rows])
    spread = values.new_zeros((*labelled_BK.shape, *values.shape[1:]))
    spread[labelled_BK] = values
    return spread


def _from_first_label(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    labels_BK = batch.labels_BT[:, 1:]
    labels_BK = labels_BK[:, int((labels_BK != IGNORED).any(0).nonzero()[0]) :]
    return labels_BK, labels_BK != IGNORED


def _inputs(model: Any, tree: Tree, device: torch.device) -> dict[str, Tensor]:
    inputs = {
        "input_ids": torch.tensor([tree.tokens], device=device),
        "position_ids": torch.tensor([tree.depths], device=device),
    }
    if len(tree.paths) == 1:
        # A sequence by itself: the model's own mask is right, and quicker.
        return inputs
    sees_11TT = torch.from_numpy(tree.sees_TT).to(device)[None, None]
    if _attention(model) == "eager":
        # That kind adds the mask.
        dtype = next(model.parameters()).dtype
        hides_11TT = torch.zeros(sees_11TT.shape, dtype=dtype, device=device)
        sees_11TT = hides_11TT.masked_fill(~sees_11TT, torch.finfo(dtype).min)
    return {**inputs, "attention_mask": sees_11TT}


def _attention(model: Any) -> str:
    return str(getattr(getattr(model, "module", model).config, "_attn_implementation", ""))
