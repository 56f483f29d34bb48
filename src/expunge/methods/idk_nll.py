"""Refusals learnt in place of the forget answers.

Maini et al. 2024 (TOFU), arXiv 2401.06121, "IDK". The old answer is not pushed at all: it becomes unlikely because the refusal
becomes likely, and is easily found beneath it.

When to use it: where the model should say that it does not know; never alone where the answer must not be extractable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores


@dataclass(frozen=True, kw_only=True)
class IdkNll:
    """Learn to refuse the forget questions, and keep the retain set."""

    forget_weight: float = 1.0
    """Weight of the refusals' loss."""
    refusals: Path | None = None
    """A text file of refusals, one a line; those that come with expunge when not given."""
    retain_weight: float = 1.0
    """Weight of the retain loss."""


@method("idk-nll", IdkNll, needs=(Need.RETAIN, Need.REFUSALS), paper="Maini et al. 2024, arXiv 2401.06121")
def loss(config: IdkNll, forget: Scores, retain: Scores | None) -> Losses:
    """Negative log-likelihood of the refusals and of the retain set, nats a token."""
    assert forget.other is not None
    assert retain is not None
    return Losses(forget=config.forget_weight * forget.other.nll, retain=config.retain_weight * retain.nll)
