"""Weighted gradient ascent: each token of a forget answer weighs as much as the model is sure of it.

Wang et al. 2025, arXiv 2502.19301. Plain ascent pushes hardest what is forgotten already; a weight of the token's own
probability, through which no gradient goes, takes that away.

When to use it: as ascent that does not run away.

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
class Wga:
    """Climb the loss of the forget set, each token weighted by its probability, and keep the retain set."""

    beta: float = 1.0
    """Exponent of the probability, ≥ 0; 0 is plain ascent."""
    forget_weight: float = 1.0
    """Weight of the ascent."""
    retain_weight: float = 1.0
    """Weight of the retain loss."""


def wga_loss(log_p_BK: Tensor, beta: float) -> Tensor:
    """Weighted log-probability of each token, shape (B, K), nats, ≤ 0; lower is more forgotten.

    Args:
        log_p_BK: log-probability of each labelled token, nats.
        beta: exponent of the probability in its weight.
    """
    return (beta * log_p_BK.detach()).exp() * log_p_BK


@method("wga", Wga, needs=(Need.RETAIN,), paper="Wang et al. 2025, arXiv 2502.19301")
def loss(config: Wga, forget: Scores, retain: Scores | None) -> Losses:
    """Weighted ascent on the forget side, negative log-likelihood on the retain side, both in nats a token."""
    assert retain is not None
    ascent = forget.mean_of_tokens(wga_loss(forget.log_p_BK, config.beta))
    return Losses(forget=config.forget_weight * ascent, retain=config.retain_weight * retain.nll)
