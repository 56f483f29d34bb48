"""Task arithmetic: what training on the forget set once more adds to the weights is subtracted instead.

Ilharco et al. 2022, arXiv 2212.04089. One edit of the weights, with no loss that pushes anything down. Of an adapter, only the
second matrix of each layer is trained for it, so that subtracting in the adapter is subtracting in the weights.

When to use it: where many runs with different strengths are wanted of one training. With a holdout, the strength is found that
brings the forget set to its level.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge.methods import method
from expunge.training.objective import Edit, Losses, Scores


@dataclass(frozen=True, kw_only=True)
class TaskVector:
    """Train on the forget set, then go as far in the opposite direction."""

    scale: float = 1.0
    """How often what was added is subtracted, > 0."""
    reinforce_steps: int = 20
    """Steps of training on the forget set."""


def negate(config: TaskVector, edit: Edit) -> None:
    """w := w − scale · (reinforced w − w), for each weight that is trained."""
    reinforced = edit.reinforce()
    for name, weight in edit.weights.items():
        weight.sub_(config.scale * (reinforced[name] - weight))


@method("task-vector", TaskVector, needs=(), paper="Ilharco et al. 2022, arXiv 2212.04089", edit=negate)
def loss(config: TaskVector, forget: Scores, retain: Scores | None) -> Losses:
    """What is trained before: the forget set's negative log-likelihood, nats a token."""
    return Losses(forget=forget.nll, retain=forget.nll.detach() * 0)
