"""Gradient ascent, with the retain answers' distributions held where the target had them.

Yao et al. 2023, arXiv 2310.10683, and "KL minimisation" in Maini et al. 2024 (TOFU), arXiv 2401.06121. The divergence is taken
at labelled positions alone: over padding it would be diluted by however much padding a batch has.

When to use it: where the retain set is small, so that its labels alone would be learnt by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge.methods import method
from expunge.training.held import held_to_the_start
from expunge.training.objective import Losses, Need, Scores


@dataclass(frozen=True, kw_only=True)
class KlMin:
    """Climb the loss of the forget set while keeping the target's distributions on the retain set."""

    forget_weight: float = 1.0
    """Weight of the ascent."""
    retain_weight: float = 1.0
    """Weight of the divergence from the target on the retain set."""


@method(
    "kl-min",
    KlMin,
    needs=(Need.RETAIN, Need.RETAIN_REFERENCE_LOGITS),
    paper="Yao et al. 2023, arXiv 2310.10683; Maini et al. 2024, arXiv 2401.06121",
)
def loss(config: KlMin, forget: Scores, retain: Scores | None) -> Losses:
    """Minus the forget set's negative log-likelihood, plus the retain set's divergence, both in nats a token."""
    assert retain is not None
    return Losses(forget=-config.forget_weight * forget.nll, retain=config.retain_weight * held_to_the_start(retain))
