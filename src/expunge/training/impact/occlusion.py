"""Occlusion: how much the loss of the rest of the answer changes when the token is taken out of the text.

Exact and slow, one forward pass a token: to validate the others by. The token is removed, as `prepare redact` would remove it,
rather than overwritten with a zero or mean embedding: those are inputs that no model has ever read, and what it does with
them says more about the filling than about the token. (Zeiler and Fergus 2014, arXiv 1311.2901, for pictures; Li et al. 2016,
arXiv 1612.08220, for text.)

Only tokens after the one removed can change, since models read from left to right; the token's own loss goes with it and does
not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.batching import Tokenized, collate
from expunge.evidence import losses, score_labels
from expunge.training.impact import Pass, estimator

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor, nn


@estimator("occlusion")
def occlusion(heard: Pass) -> Tensor:
    """|change of the loss| in nats; 0 for the last token."""
    import torch

    impact_BT = torch.zeros(len(heard.examples), heard.longest)
    modes = {module: module.training for module in heard.model.modules()}
    heard.model.eval()
    try:
        # In evaluation mode nothing is drawn at random, so the training's own draws are undisturbed.
        for row, example in enumerate(heard.examples):
            if heard.wanted_B[row]:
                impact_BT[row, : len(example.tokens)] = loss_change(heard.model, example).abs()
    finally:
        for module, training in modes.items():
            module.training = training
    return impact_BT


def loss_change(model: nn.Module, example: Tokenized, removed: Sequence[Collection[int]] | None = None) -> Tensor:
    """What the removal of tokens adds to the summed loss of the labelled tokens that are left, nats.

    Above 0 where they helped to predict those, below where they misled. One forward pass a removal, and one of the whole.

    Args:
        model: in evaluation mode.
        example: of at least two tokens.
        removed: the positions to remove together for each value returned; each token by itself where not given.

    Returns:
        Shape (len(removed),), or (T,).
    """
    import torch

    last = len(example.tokens) - 1
    gaps = [{place} for place in range(last + 1)] if removed is None else [set(places) for places in removed]
    # What comes before a gap is not changed by it.
    cut = {number: rest for number, gap in enumerate(gaps) if gap - {last} and (rest := _without(example, gap)).labelled}
    found = losses(model, [rest.example for rest in cut.values()], pad=0)
    with torch.inference_mode():
        batch: Any = collate([example], 0)
        device = next(model.parameters()).device
        scores = score_labels(model, type(batch)(*(tensor.to(device) for tensor in batch)))
    loss_T = torch.zeros(len(example.tokens))
    loss_T[example.start :] = -scores.log_p_BK[0].float().cpu()
    change = torch.zeros(len(gaps))
    for (number, rest), loss in zip(cut.items(), found, strict=True):
        change[number] = loss * len(rest.labelled) - loss_T[rest.labelled].sum()
    return change


class _Rest(NamedTuple):
    example: Tokenized
    labelled: list[int]
    """Where its labelled tokens stood in the whole."""


def _without(example: Tokenized, gap: set[int]) -> _Rest:
    left = [place for place in range(len(example.tokens)) if place not in gap]
    # The first token is never predicted: of a text that is labelled from its second token on, one label less may be left.
    start = max(1, sum(place < example.start for place in left))
    tokens = tuple(example.tokens[place] for place in left)
    return _Rest(example._replace(tokens=tokens, start=start), left[start:])
