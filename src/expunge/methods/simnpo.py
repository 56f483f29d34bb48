"""Simple negative preference optimisation: NPO on the mean log-probability of an answer, without a reference model.

Fan et al. 2024, arXiv 2410.07163, eq. 4. Long and short answers are pushed alike, and nothing is compared with the target: how
far an answer is pushed depends on how likely it is, not on how far it has come.

When to use it: where answers differ much in length. The margin moves where it lets go of an answer.

Shapes: B examples in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SimNpo:
    """Push the mean log-probability of forget answers down, whatever their length; no reference is needed."""

    beta: float = 4.5
    """Inverse temperature, > 0."""
    delta: float = 0.0
    """Margin, nats a token: an answer is pushed until it costs about so much."""
    forget_weight: float = 0.125
    """Weight of the forget loss."""
    retain_weight: float = 1.0
    """Weight of the retain loss (nats a token)."""


def simnpo_loss(log_p_B: Tensor, tokens_B: Tensor, beta: float, delta: float) -> Tensor:
    """SimNPO loss of each forget answer, shape (B,), > 0; lower is more forgotten.

    Args:
        log_p_B: summed log-probability of each answer, nats.
        tokens_B: its number of tokens, ≥ 1.
        beta: inverse temperature, > 0.
        delta: margin, nats a token.
    """
    from torch.nn.functional import logsigmoid

    return -2 / beta * logsigmoid(beta * (-log_p_B / tokens_B - delta))


@method("simnpo", SimNpo, needs=(Need.RETAIN,), paper="Fan et al. 2024, arXiv 2410.07163")
def loss(config: SimNpo, forget: Scores, retain: Scores | None) -> Losses:
    """SimNPO on the forget side, negative log-likelihood on the retain side."""
    assert retain is not None
    loss_B = simnpo_loss(forget.log_p_B, forget.tokens_B, config.beta, config.delta)
    return Losses(forget=config.forget_weight * forget.mean(loss_B), retain=config.retain_weight * retain.nll)
