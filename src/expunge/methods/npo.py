"""Negative preference optimisation: the forget answer as the rejected side of a preference pair with no preferred side.

Zhang et al. 2024, arXiv 2404.05868, eq. 3. Bounded below, so it does not run away as gradient ascent does: an answer that
is already unlikely is hardly pushed further.

When to use it: the first choice for deletion requests; stop it at the level of people who were never trained on.

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
class Npo:
    """Push forget answers below the likelihood the target gave them; keep the retain set by its own loss."""

    beta: float = 0.1
    """Inverse temperature, > 0; the smaller, the closer to plain gradient ascent."""
    retain_weight: float = 1.0
    """Weight of the retain loss (nats an answer, as the forget loss is) beside the forget loss."""


def npo_loss(log_p_B: Tensor, log_p_ref_B: Tensor, beta: float) -> Tensor:
    """NPO loss of each forget answer; lower is more forgotten.

    Args:
        log_p_B: summed log-probability of each answer under the model being unlearned, nats.
        log_p_ref_B: the same under the frozen target model.
        beta: inverse temperature, > 0.

    Returns:
        Shape (B,), ≥ 0: 2·log 2 / beta at log_p == log_p_ref, falling towards 0 as the answer becomes less likely.
    """
    from torch.nn.functional import logsigmoid

    return -2 / beta * logsigmoid(-beta * (log_p_B - log_p_ref_B))


@method("npo", Npo, needs=(Need.REFERENCE, Need.RETAIN), paper="Zhang et al. 2024, arXiv 2404.05868")
def loss(config: Npo, forget: Scores, retain: Scores | None) -> Losses:
    """NPO on the forget side, negative log-likelihood on the retain side, both in nats an answer."""
    assert forget.log_p_ref_B is not None
    assert retain is not None
    # Summed, not averaged, over the answer: the preference is between whole answers.
    return Losses(
        forget=forget.mean(npo_loss(forget.log_p_B, forget.log_p_ref_B, config.beta)),
        # In the same unit, nats an answer: per token, as elsewhere, the retain set would weigh an answer's length less and
        # be lost with the forget set.
        retain=config.retain_weight * retain.mean(-retain.log_p_B),
    )
