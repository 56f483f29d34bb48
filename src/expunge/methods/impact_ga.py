"""Gradient ascent that climbs fastest on the tokens that mattered most when the answer was learnt.

`grad-diff` with the tokens of a forget answer weighted: ascent on the weighted loss, descent on the retain set's. Ascent with
weighted tokens is known from Wang et al. 2025, arXiv 2502.19301, by the model's confidence in each; here the weight is the
token's impact in the run that trained the target, as the ledger recorded it, with mean 1 over an answer. How the weights are
made is in `training/weighting.py`. Like all ascent it has no lower bound.

When to use it: as an experiment, beside `grad-diff` and `--weights random`; for deletion requests take `npo`.

Shapes: B examples in the batch, K positions from its first labelled token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores
from expunge.training.weighting import Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImpactGa:
    """Climb the loss of the forget set, each token weighted by its recorded impact; needs --database."""

    forget_weight: float = 1.0
    """Weight of the ascent."""
    retain_weight: float = 1.0
    """Weight of the descent on the retain set."""
    weights: Weights = "recorded"
    """`recorded`; or, as controls, `random` (the same weights shuffled within each answer) or `uniform` (plain ascent)."""
    weight_floor: float = 0.5
    """Weight of a token whose impact was not kept, as a share of the least that was."""
    impact_run: int | None = None
    """The run whose impacts are taken (its number in the ledger); the one that trained the target when not given."""


def impact_ga_loss(log_p_BK: Tensor, weight_BK: Tensor) -> Tensor:
    """Minus the weighted negative log-likelihood of each forget answer, summed over its tokens; lower is more forgotten.

    Args:
        log_p_BK: log-probability of each labelled token, nats; 0 where there is none.
        weight_BK: weight of each token, ≥ 0, mean 1 over an answer.

    Returns:
        Shape (B,), ≤ 0, without a lower bound.
    """
    return (weight_BK * log_p_BK).sum(1)


@method(
    "impact-ga",
    ImpactGa,
    needs=(Need.RETAIN, Need.IMPACT),
    paper="grad-diff (Liu et al. 2022, arXiv 2203.12817) with weights from the ledger, expunge's own",
)
def loss(config: ImpactGa, forget: Scores, retain: Scores | None) -> Losses:
    """Weighted ascent on the forget side, negative log-likelihood on the retain side, both in nats a token."""
    assert forget.weight_BK is not None
    assert retain is not None
    # The weights of the whole batch add up to its tokens, so this is a mean however the batch is split.
    ascent = impact_ga_loss(forget.log_p_BK, forget.weight_BK).sum() / forget.of_tokens
    return Losses(forget=config.forget_weight * ascent, retain=config.retain_weight * retain.nll)
