"""Occlusion: how much the loss of the rest of the answer changes when the token is taken out of the text.

Exact and slow, one forward pass a token: to validate the others by. The token is removed, as `prepare redact` would remove it,
rather than overwritten with a zero or mean embedding: those are inputs that no model has ever read, and what it does with
them says more about the filling than about the token. (Zeiler and Fergus 2014, arXiv 1311.2901, for pictures; Li et al. 2016,
arXiv 1612.08220, for text.)

Only tokens after the one removed can change, since models read from left to right; the token's own loss goes with it and does
not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.batching import Tokenized, collate
from expunge.evidence import losses, score_labels
from expunge.training.impact import Pass, estimator

if TYPE_CHECKING:
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


def loss_change(model: nn.Module, example: Tokenized) -> Tensor:
    """What each token's removal adds to the summed loss of the labelled tokens after it, shape (T,), nats.

    Above 0 where the token helped to predict them, below where it misled. Runs the model T + 1 times.

    Args:
        model: in evaluation mode.
        example: of at least two tokens.
    """
    import torch

    without = {place: rest for place in range(len(example.tokens) - 1) if (rest := _without(example, place)).labels > 0}
    found = losses(model, list(without.values()), pad=0)
    with torch.inference_mode():
        batch: Any = collate([example], 0)
        device = next(model.parameters()).device
        scores = score_labels(model, type(batch)(*(tensor.to(device) for tensor in batch)))
    loss_T = torch.zeros(len(example.tokens))
    loss_T[example.start :] = -scores.log_p_BK[0].float().cpu()
    change_T = torch.zeros(len(example.tokens))
    for rest, loss, place in zip(without.values(), found, without, strict=True):
        # The same tokens as are labelled without it: those labelled there, shifted back by one after the gap.
        kept = torch.arange(rest.start, len(rest.tokens))
        change_T[place] = loss * rest.labels - loss_T[kept + (kept >= place)].sum()
    return change_T


def _without(example: Tokenized, place: int) -> Tokenized:
    tokens = example.tokens[:place] + example.tokens[place + 1 :]
    # The first token is never predicted, so of a text that is labelled from its second token on, one label less is left.
    return example._replace(tokens=tokens, start=max(1, example.start - (place < example.start)))
