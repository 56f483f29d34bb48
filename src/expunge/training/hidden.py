"""Hidden states: of one layer, with the forward pass ended there; and before the output head, from which logits are made again.

Shapes: B examples, T tokens, K positions from the batch's first labelled token on, H the hidden size, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from expunge.batching import TokenBatch, Tokenized, batches_by_length, collate
from expunge.batching.batches import IGNORED
from expunge.errors import ExpungeError
from expunge.evidence import score_labels
from expunge.evidence.room import tokens_together

if TYPE_CHECKING:
    from torch import Tensor

_MOST_TOKENS = 1024


class LabelHidden(NamedTuple):
    """The hidden states of a batch from its first labelled token on."""

    hidden_BKH: Tensor
    labelled_BK: Tensor


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal language model, whatever their place is called.

    Raises:
        ExpungeError: there is no such list.
    """
    config: Any = getattr(model, "module", model).config
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise ExpungeError("the layers of this model were not found", remedy="choose a method that needs no hidden states")


def label_hidden(model: nn.Module, batch: TokenBatch, layer: int) -> LabelHidden:
    """The hidden states behind layer number `layer` (from 0); the layers above it are not run.

    Raises:
        ValueError: the batch has no label at all.
    """
    labelled_BT = batch.labels_BT != IGNORED
    if not labelled_BT.any():
        raise ValueError("no token of this batch is labelled")
    first = int(labelled_BT.any(0).nonzero()[0])
    hidden_BTH = hidden_behind(model, layer, input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
    return LabelHidden(hidden_BTH[:, first:], labelled_BT[:, first:])


def hidden_behind(model: nn.Module, layer: int, **inputs: Tensor) -> Tensor:
    """What layer number `layer` gives, shape (B, T, H); the layers above it are not run.

    Args:
        inputs: the model's own.
    """
    with _ended_at(model, layer) as heard:
        # The head is asked about one position, because the model's own forward knows no end before it.
        model(**inputs, logits_to_keep=1, use_cache=False)
    (hidden_BTH,) = heard
    return hidden_BTH


@contextmanager
def _ended_at(model: nn.Module, layer: int) -> Iterator[list[Tensor]]:
    """Without the layers above, for the time being; what layer number `layer` gives is heard."""
    layers = layers_of(model)
    heard: list[Tensor] = []

    def hear(_module: nn.Module, _inputs: Any, output: Any) -> None:
        heard.append(output[0] if isinstance(output, tuple) else output)

    parent, name = next(
        (module, name) for module in model.modules() for name, child in module.named_children() if child is layers
    )
    hook = layers[layer].register_forward_hook(hear)
    # Not by an error that breaks off the pass: several processes wait for what comes after it.
    setattr(parent, name, nn.ModuleList(layers[: layer + 1]))
    try:
        yield heard
    finally:
        setattr(parent, name, layers)
        hook.remove()


class Head(NamedTuple):
    """An output head as it is now, to make logits of hidden states that were kept.

    A hidden state is some hundred times smaller than its logits, so it can be kept for every answer; the frozen reference
    is then run once an example instead of once a step, and need not stay in memory.
    """

    weight_VH: Tensor
    bias_V: Tensor | None
    scale: float
    softcap: float | None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a model; a copy if it is among what is trained."""
        head, config = model.get_output_embeddings(), model.config

        def kept(weight: Tensor | None) -> Tensor | None:
            return weight if weight is None else weight.detach().clone() if weight.requires_grad else weight.detach()

        weight_VH = kept(head.weight)
        assert weight_VH is not None
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
        return cls(weight_VH, kept(getattr(head, "bias", None)), scale, getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """The logits that belong to hidden states, shape (N, V), without a gradient."""
        with torch.no_grad():
            logits_NV = F.linear(hidden_NH.to(self.weight_VH.dtype), self.weight_VH, self.bias_V) * self.scale
            return logits_NV if self.softcap is None else self.softcap * torch.tanh(logits_NV / self.softcap)


def kept_before_head(model: Any, examples: Sequence[Tokenized], places: Iterable[int], *, pad: int) -> dict[int, Tensor]:
    """The hidden states from which each labelled token of these examples is predicted: place → shape (K, H)."""
    head = model.get_output_embeddings()

    def measure(batch: TokenBatch) -> LabelHidden:
        heard: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda _module, inputs: heard.append(inputs[0]))
        try:
            labelled_BK = score_labels(model, batch).labelled_BK
        finally:
            hook.remove()
        return LabelHidden(heard[0], labelled_BK)

    return _kept(model, examples, places, measure, pad=pad)


def kept_behind_layer(
    model: nn.Module, examples: Sequence[Tokenized], places: Iterable[int], layer: int, *, pad: int
) -> dict[int, Tensor]:
    """The hidden states of each labelled token of these examples behind a layer: place → shape (K, H)."""
    return _kept(model, examples, places, lambda batch: label_hidden(model, batch, layer), pad=pad)


def _kept(
    model: nn.Module,
    examples: Sequence[Tokenized],
    places: Iterable[int],
    measure: Callable[[TokenBatch], LabelHidden],
    *,
    pad: int,
) -> dict[int, Tensor]:
    wanted, device = sorted(set(places)), next(model.parameters()).device
    found: dict[int, Tensor] = {}
    for batch in batches_by_length(
        [len(examples[place].tokens) for place in wanted], most_tokens=tokens_together(model, _MOST_TOKENS)
    ):
        members = [wanted[position] for position in batch.places]
        tokens = collate([examples[place] for place in members], pad)
        with torch.no_grad():
            hidden_BKH, labelled_BK = measure(TokenBatch(*(tensor.to(device) for tensor in tokens)))
        for row, place in enumerate(members):
            found[place] = hidden_BKH[row][labelled_BK[row]].cpu().clone()
    return found
