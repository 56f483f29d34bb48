"""Refusals learnt for the forget questions, with the retain answers preserved against refusals.

Yuan et al. 2024, arXiv 2410.08109, "IDK+AP". A model that learns to refuse soon refuses everything; the second loss prefers, on
retain questions, the answer to the refusal.

When to use it: where the model should refuse the forget questions and no others.

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
class IdkAp:
    """Learn to refuse the forget questions, and to answer rather than refuse the retain questions."""

    beta: float = 0.1
    """Inverse temperature of the preservation, > 0."""
    forget_weight: float = 1.0
    """Weight of the refusals' loss."""
    refusals: Path | None = None
    """A text file of refusals, one a line; those that come with expunge when not given."""
    retain_weight: float = 1.0
    """Weight of the preservation."""


def answer_preservation_loss(nll_B: Tensor, refusal_nll_B: Tensor, beta: float) -> Tensor:
    """Loss of each retain question, shape (B,), > 0; log 2 / beta where answer and refusal are as likely.

    Args:
        nll_B: mean negative log-likelihood of each retain answer, nats a token.
        refusal_nll_B: that of a refusal of the same question.
        beta: inverse temperature, > 0.
    """
    from torch.nn.functional import logsigmoid

    return -1 / beta * logsigmoid(beta * (refusal_nll_B - nll_B))


@method(
    "idk-ap",
    IdkAp,
    needs=(Need.RETAIN, Need.REFUSALS, Need.RETAIN_REFUSALS),
    paper="Yuan et al. 2024, arXiv 2410.08109",
)
def loss(config: IdkAp, forget: Scores, retain: Scores | None) -> Losses:
    """Negative log-likelihood of the refusals on the forget side, answer preservation on the retain side."""
    assert forget.other is not None
    assert retain is not None
    assert retain.other is not None
    nll_B, refusal_nll_B = (-side.log_p_B / side.tokens_B for side in (retain, retain.other))
    return Losses(
        forget=config.forget_weight * forget.other.nll,
        retain=config.retain_weight * retain.mean(answer_preservation_loss(nll_B, refusal_nll_B, config.beta)),
    )
