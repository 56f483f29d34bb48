"""Gradient ascent weighted by saturation and importance: most for tokens that are known, but not by heart.

Yang et al. 2025, arXiv 2505.11953. The weight is p^β₁ · (1 − p)^β₂, through which no gradient goes: the first factor leaves
alone what is forgotten, the second what is certain.

When to use it: as ascent that spares what everybody would say. Where answers are known by heart it starts slowly.

Shapes: B examples in the batch, K positions from its first labelled token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SatImp:
    """Climb the loss of the forget set, most for tokens that are neither forgotten nor certain, and keep the retain set."""

    beta1: float = 5.0
    """Exponent of the probability, ≥ 0."""
    beta2: float = 1.0
    """Exponent of its complement, ≥ 0."""
    forget_weight: float = 0.1
    """Weight of the ascent."""
    retain_weight: float = 1.0
    """Weight of the retain loss."""


def satimp_loss(log_p_BK: Tensor, beta1: float, beta2: float) -> Tensor:
    """Weighted log-probability of each token, shape (B, K), nats, ≤ 0; lower is more forgotten.

    Args:
        log_p_BK: log-probability of each labelled token, nats.
        beta1: exponent of the probability in its weight.
        beta2: exponent of the complement.
    """
    import torch

    known_BK = log_p_BK.detach()
    return (beta1 * known_BK).exp() * (-torch.expm1(known_BK)).pow(beta2) * log_p_BK


@method("satimp", SatImp, needs=(Need.RETAIN,), paper="Yang et al. 2025, arXiv 2505.11953")
def loss(config: SatImp, forget: Scores, retain: Scores | None) -> Losses:
    """Weighted ascent on the forget side, negative log-likelihood on the retain side, both in nats a token."""
    assert retain is not None
    ascent = forget.mean_of_tokens(satimp_loss(forget.log_p_BK, config.beta1, config.beta2))
    return Losses(forget=config.forget_weight * ascent, retain=config.retain_weight * retain.nll)
