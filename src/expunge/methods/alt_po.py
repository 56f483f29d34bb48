"""Direct preference optimisation with an answer of the model's own preferred to the forget answer.

Mekala et al. 2024, arXiv 2409.13474. Before the first step the target is asked, for every forget question, for another answer
that is as plausible; that answer is preferred. Unlike a refusal it looks like any other answer, so it does not give away what
was forgotten. What a small model makes up may be poor: the alternatives are in the run directory, `alternatives.jsonl`.

When to use it: with a model that can write a plausible answer, where refusals would give the forgotten away.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge.methods import method
from expunge.methods.idk_dpo import preference
from expunge.training.objective import Losses, Need, Scores


@dataclass(frozen=True, kw_only=True)
class AltPo:
    """Prefer an alternative that the model itself made up to each forget answer, and keep the retain set."""

    beta: float = 0.1
    """Inverse temperature, > 0; the smaller, the further from the target it goes."""
    forget_weight: float = 1.0
    """Weight of the preference."""
    retain_weight: float = 1.0
    """Weight of the retain loss (nats an answer, as the preference is)."""


@method("alt-po", AltPo, needs=(Need.REFERENCE, Need.RETAIN, Need.ALTERNATIVES), paper="Mekala et al. 2024, arXiv 2409.13474")
def loss(config: AltPo, forget: Scores, retain: Scores | None) -> Losses:
    """The preference on the forget side, negative log-likelihood on the retain side, both in nats an answer."""
    assert retain is not None
    return Losses(
        forget=config.forget_weight * preference(forget, config.beta),
        retain=config.retain_weight * retain.mean(-retain.log_p_B),
    )
