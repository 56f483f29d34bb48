"""Direct preference optimisation with a refusal preferred to the forget answer.

Rafailov et al. 2023, arXiv 2305.18290; for unlearning, with refusals as the preferred side, Zhang et al. 2024, arXiv
2404.05868, and Maini et al. 2024 (TOFU), arXiv 2401.06121.

When to use it: where the model should refuse and the answer should become unlikely as well.

Shapes: B examples in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class IdkDpo:
    """Prefer a refusal to each forget answer, and keep the retain set."""

    beta: float = 0.1
    """Inverse temperature, > 0; the smaller, the further from the target it goes."""
    forget_weight: float = 1.0
    """Weight of the preference."""
    refusals: Path | None = None
    """A text file of refusals, one a line; those that come with expunge when not given."""
    retain_weight: float = 1.0
    """Weight of the retain loss (nats an answer, as the preference is)."""


def preference_loss(
    log_p_B: Tensor, log_p_ref_B: Tensor, preferred_log_p_B: Tensor, preferred_log_p_ref_B: Tensor, beta: float
) -> Tensor:
    """DPO loss of each pair times 2 / beta, shape (B,), ≥ 0: 2·log 2 / beta where nothing has changed yet.

    Args:
        log_p_B: summed log-probability of each forget answer under the model being unlearned, nats.
        log_p_ref_B: the same under the frozen target.
        preferred_log_p_B: of the answer that is to take its place.
        preferred_log_p_ref_B: the same under the frozen target.
        beta: inverse temperature, > 0.
    """
    from torch.nn.functional import logsigmoid

    margin_B = (preferred_log_p_B - preferred_log_p_ref_B) - (log_p_B - log_p_ref_B)
    return -2 / beta * logsigmoid(beta * margin_B)


def preference(forget: Scores, beta: float) -> Tensor:
    """The mean preference loss of a forget side with other answers beside it."""
    assert forget.log_p_ref_B is not None
    assert forget.other is not None
    assert forget.other.log_p_ref_B is not None
    return forget.mean(
        preference_loss(forget.log_p_B, forget.log_p_ref_B, forget.other.log_p_B, forget.other.log_p_ref_B, beta)
    )


@method(
    "idk-dpo",
    IdkDpo,
    needs=(Need.REFERENCE, Need.RETAIN, Need.REFUSALS),
    paper="Rafailov et al. 2023, arXiv 2305.18290; Maini et al. 2024, arXiv 2401.06121",
)
def loss(config: IdkDpo, forget: Scores, retain: Scores | None) -> Losses:
    """The preference on the forget side, negative log-likelihood on the retain side, both in nats an answer."""
    assert retain is not None
    return Losses(
        forget=config.forget_weight * preference(forget, config.beta),
        retain=config.retain_weight * retain.mean(-retain.log_p_B),
    )
