"""Gradient difference: ascent on the forget set, descent on the retain set.

Liu, Liu and Stone 2022, arXiv 2203.12817; named so by Maini et al. 2024 (TOFU), arXiv 2401.06121. Its forget loss has no lower
bound: left alone it ruins the model, and sooner the larger the learning rate.

When to use it: as the baseline every other method must beat, or for a handful of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores


@dataclass(frozen=True, kw_only=True)
class GradDiff:
    """Climb the loss of the forget set while descending that of the retain set."""

    forget_weight: float = 1.0
    """Weight of the ascent."""
    retain_weight: float = 1.0
    """Weight of the descent."""


@method("grad-diff", GradDiff, needs=(Need.RETAIN,), paper="Liu et al. 2022, arXiv 2203.12817")
def loss(config: GradDiff, forget: Scores, retain: Scores | None) -> Losses:
    """Minus the forget set's negative log-likelihood, plus the retain set's."""
    assert retain is not None
    return Losses(forget=-config.forget_weight * forget.nll, retain=config.retain_weight * retain.nll)
