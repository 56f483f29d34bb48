"""Gradient-rectified unlearning: the forget gradient's part that would harm the retain set is taken out of every step.

Wang et al. 2025, arXiv 2503.09117. Where the gradient of the forget loss points against that of the retain loss, its component
along the latter is removed; the retain gradient itself is added, with its weight. The forget loss is `npo`'s.

When to use it: where `npo` at the holdout's level has cost the retain set too much. It takes more memory: two gradients.

Shapes: P trained weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.methods.npo import npo_loss
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Gru:
    """NPO whose step never goes against the retain set: the part of its gradient that would is removed."""

    beta: float = 0.1
    """Inverse temperature of NPO, > 0."""
    retain_weight: float = 1.0
    """Weight of the retain gradient that is added (of nats an answer, as the forget loss is)."""


def rectified(forget_P: Tensor, retain_P: Tensor) -> Tensor:
    """The forget gradient without what points against the retain gradient, shape (P,); itself where nothing does.

    Args:
        forget_P: gradient of the forget loss of the whole step.
        retain_P: gradient of the retain loss of the whole step.
    """
    import torch

    along = torch.dot(forget_P, retain_P)
    if along >= 0:
        return forget_P
    return forget_P - along / torch.dot(retain_P, retain_P) * retain_P


def step(config: Gru, forget_P: Tensor, retain_P: Tensor) -> Tensor:
    """The rectified forget gradient plus the weighted retain gradient, shape (P,)."""
    return rectified(forget_P, retain_P) + config.retain_weight * retain_P


@method(
    "gru",
    Gru,
    needs=(Need.REFERENCE, Need.RETAIN),
    paper="Wang et al. 2025, arXiv 2503.09117, with Zhang et al. 2024, arXiv 2404.05868",
    gradient=step,
)
def loss(config: Gru, forget: Scores, retain: Scores | None) -> Losses:
    """NPO on the forget side, negative log-likelihood on the retain side, both in nats an answer and unweighted."""
    assert forget.log_p_ref_B is not None
    assert retain is not None
    return Losses(
        forget=forget.mean(npo_loss(forget.log_p_B, forget.log_p_ref_B, config.beta)), retain=retain.mean(-retain.log_p_B)
    )
