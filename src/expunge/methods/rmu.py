"""Representation misdirection: hidden states of the forget set are led to one random direction, those of the retain set stay.

Li et al. 2024, arXiv 2403.03218; with the length of the aim taken from the hidden states themselves, as in Huu-Tien et al.
2024, arXiv 2408.06223, so that one setting suits models and layers of any scale. Only three layers are trained, and the pass
ends at the last of them: no loss of the answers is computed.

When to use it: for hazardous knowledge that is spread over many texts. What it leaves is noise rather than a stranger's
answer, which a membership attack sees.

Shapes: B examples in the batch, K positions from its first labelled token on, H the hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rmu:
    """Misdirect the hidden states of the forget set at one layer, and hold those of the retain set."""

    layer: int | None = None
    """Number of the layer, from 0, behind which the hidden states are led away; 7 of 16 of the way up when not given. It and
    the two below it are trained."""
    steering: float = 5.0
    """Length of the aim, as a multiple of the target's own hidden state at each token."""
    retain_weight: float = 1.0
    """Weight of the retain side."""
    direction_seed: int = 0
    """Fixes the random direction."""


def direction(hidden_size: int, seed: int) -> Tensor:
    """A unit vector with no negative part, drawn from a seed: shape (H,)."""
    import torch

    vector_H = torch.rand(hidden_size, generator=torch.Generator().manual_seed(seed))
    unit_H: Tensor = vector_H / vector_H.norm()
    return unit_H


def misdirection_loss(hidden_BKH: Tensor, aim_BKH: Tensor, labelled_BK: Tensor) -> Tensor:
    """Mean squared distance between hidden states and their aim, shape (B,), ≥ 0: mean over H, then over labelled tokens.

    Args:
        hidden_BKH: of the model being unlearned.
        aim_BKH: what they are led to, or held at.
        labelled_BK: which positions count.
    """
    distance_BK = (hidden_BKH.float() - aim_BKH.float()).square().mean(-1).masked_fill(~labelled_BK, 0)
    return distance_BK.sum(1) / labelled_BK.sum(1)


@method(
    "rmu",
    Rmu,
    needs=(Need.HIDDEN, Need.RETAIN),
    paper="Li et al. 2024, arXiv 2403.03218; Huu-Tien et al. 2024, arXiv 2408.06223",
)
def loss(config: Rmu, forget: Scores, retain: Scores | None) -> Losses:
    """Distance from the aim on the forget side, from the target's own hidden states on the retain side."""
    assert forget.hidden_BKH is not None
    assert forget.hidden_ref_BKH is not None
    assert retain is not None
    assert retain.hidden_BKH is not None
    assert retain.hidden_ref_BKH is not None
    unit_H = direction(forget.hidden_BKH.shape[-1], config.direction_seed).to(forget.hidden_BKH)
    aim_BKH = config.steering * forget.hidden_ref_BKH.norm(dim=-1, keepdim=True) * unit_H
    return Losses(
        forget=forget.mean(misdirection_loss(forget.hidden_BKH, aim_BKH, forget.labelled_BK)),
        retain=config.retain_weight
        * retain.mean(misdirection_loss(retain.hidden_BKH, retain.hidden_ref_BKH, retain.labelled_BK)),
    )
