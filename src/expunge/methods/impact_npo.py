"""Negative preference optimisation that pushes hardest on the tokens that mattered most when the answer was learnt.

Zhang et al. 2024, arXiv 2404.05868, eq. 3, with the log-probability of an answer replaced by a weighted sum over its tokens,
under the model and under the reference alike. The weights have mean 1 over an answer, so that equal ones give `npo`. Weighting
the tokens of a forget answer is known from Wang et al. 2025, arXiv 2502.19301, by the model's confidence in each; here the
weight is the token's impact in the run that trained the target, as the ledger recorded it. How the weights are made is in
`training/weighting.py`.

When to use it: as an experiment. Compare it with `npo` and with `--weights random` on your own data before you rely on it.

Shapes: B examples in the batch, K positions from its first labelled token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.methods.npo import npo_loss
from expunge.training.objective import Losses, Need, Scores
from expunge.training.weighting import Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImpactNpo:
    """NPO with each token of a forget answer weighted by its recorded impact; needs --database."""

    beta: float = 0.1
    """Inverse temperature, > 0; the smaller, the closer to plain gradient ascent."""
    retain_weight: float = 1.0
    """Weight of the retain loss (nats an answer, as the forget loss is) beside the forget loss."""
    weights: Weights = "recorded"
    """`recorded`; or, as controls, `random` (the same weights shuffled within each answer) or `uniform` (plain NPO)."""
    weight_floor: float = 0.5
    """Weight of a token whose impact was not kept, as a share of the least that was."""
    impact_run: int | None = None
    """The run whose impacts are taken (its number in the ledger); the one that trained the target when not given."""


def impact_npo_loss(log_p_BK: Tensor, weight_BK: Tensor, log_p_ref_B: Tensor, beta: float) -> Tensor:
    """NPO loss of each forget answer with weighted tokens; lower is more forgotten.

    Args:
        log_p_BK: log-probability of each labelled token under the model being unlearned, nats; 0 where there is none.
        weight_BK: weight of each token, ≥ 0, mean 1 over an answer.
        log_p_ref_B: log-probability of each answer under the frozen target model, summed with the same weights, nats.
        beta: inverse temperature, > 0.

    Returns:
        Shape (B,), ≥ 0: 2·log 2 / beta where nothing has changed yet.
    """
    return npo_loss((weight_BK * log_p_BK).sum(1), log_p_ref_B, beta)


@method(
    "impact-npo",
    ImpactNpo,
    needs=(Need.REFERENCE, Need.RETAIN, Need.IMPACT),
    paper="npo (Zhang et al. 2024, arXiv 2404.05868) with weights from the ledger, expunge's own",
)
def loss(config: ImpactNpo, forget: Scores, retain: Scores | None) -> Losses:
    """Weighted NPO on the forget side, negative log-likelihood on the retain side, both in nats an answer."""
    assert forget.log_p_ref_B is not None
    assert forget.weight_BK is not None
    assert retain is not None
    loss_B = impact_npo_loss(forget.log_p_BK, forget.weight_BK, forget.log_p_ref_B, config.beta)
    return Losses(forget=forget.mean(loss_B), retain=config.retain_weight * retain.mean(-retain.log_p_B))
