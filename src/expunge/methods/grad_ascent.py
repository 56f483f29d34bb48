"""Gradient ascent: the forget set's loss climbed, and nothing else.

Jang et al. 2022, arXiv 2210.01504. It has no lower bound and nothing holds the rest of the model, so it ruins it soon: give a
retain set and ordinary text all the same, and the run ends when they are lost.

When to use it: as the baseline that shows why other methods hold the retain set.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge.methods import method
from expunge.training.objective import Losses, Scores


@dataclass(frozen=True, kw_only=True)
class GradAscent:
    """Climb the loss of the forget set; nothing holds the retain set."""


@method("grad-ascent", GradAscent, needs=(), paper="Jang et al. 2022, arXiv 2210.01504")
def loss(config: GradAscent, forget: Scores, retain: Scores | None) -> Losses:
    """Minus the forget set's negative log-likelihood, nats a token."""
    return Losses(forget=-forget.nll, retain=forget.nll.detach() * 0)
