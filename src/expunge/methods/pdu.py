"""Primal-dual unlearning: forget as far as the retain loss stays below a limit, and not at a fixed exchange rate.

Entesari et al. 2025, arXiv 2506.05314. The forget loss flattens the logits of the forget answers. The retain loss is weighed by
a multiplier that rises while it is above the limit and falls while it is below. The limit is said as a factor of what the
target itself has, measured before the first step, so that it means the same for every model.

When to use it: where you can say what loss of utility you accept, and not what weight buys it.

Shapes: B examples in the batch, K positions from its first labelled token on, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pdu:
    """Flatten the logits of the forget answers subject to a limit on the retain loss, by a multiplier that adapts."""

    limit_factor: float = 1.1
    """The limit of the retain loss, as a factor of the target's own."""
    limit_slack: float = 0.05
    """Nats a token on top of it: a target that knows its data by heart has a loss of next to nothing."""
    dual_step: float = 1.0
    """How fast the multiplier moves: by this times the distance from the limit."""
    multiplier: float = 1.0
    """The multiplier to begin with."""
    forget_weight: float = 1.0
    """Weight of the forget loss."""


def flatness_loss(logits_BKV: Tensor) -> Tensor:
    """Squared distance between the greatest and the mean logit of each position, shape (B, K), ≥ 0; 0 where all are equal.

    Args:
        logits_BKV: of the model being unlearned.
    """
    return (logits_BKV.amax(-1) - logits_BKV.mean(-1)).float().square()


def next_multiplier(config: Pdu, multiplier: float, retain_loss: float, start: float) -> float:
    """One dual step: the multiplier of the next step, ≥ 0.

    Args:
        multiplier: of this step.
        retain_loss: of this step, nats a token.
        start: what the target has, nats a token.
    """
    limit = config.limit_factor * start + config.limit_slack
    return max(0.0, multiplier + config.dual_step * (retain_loss - limit))


@method(
    "pdu",
    Pdu,
    needs=(Need.LOGITS, Need.RETAIN),
    paper="Entesari et al. 2025, arXiv 2506.05314",
    dual=next_multiplier,
)
def loss(config: Pdu, forget: Scores, retain: Scores | None) -> Losses:
    """Flat logits on the forget side, negative log-likelihood (nats a token) times the multiplier on the retain side."""
    assert forget.logits_BKV is not None
    assert retain is not None
    flatness = forget.mean_of_tokens(flatness_loss(forget.logits_BKV))
    return Losses(forget=config.forget_weight * flatness, retain=retain.multiplier * retain.nll, constraint=retain.nll.detach())
