"""What a step minimises: the words between a method, which knows only losses, and the trainer, which knows the rest.

Shapes: B examples of the micro-batch, K positions from its first labelled token on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Need(StrEnum):
    """What a method asks the trainer to supply."""

    REFERENCE = "reference"
    """Log-probabilities of the forget answers under the model as it was before the first step."""
    RETAIN = "retain"
    """A retain batch beside every forget batch."""
    IMPACT = "impact"
    """A weight for each token of the forget answers, from the token impacts in the ledger."""


@dataclass(frozen=True)
class Scores:
    """One side (forget or retain) of a micro-batch under the model being trained, with gradients.

    Sums are divided by the counts of the *whole* effective batch, so that the loss does not depend on how the batch is
    split into micro-batches or over processes.
    """

    log_p_BK: Tensor
    """Log-probability of each labelled token, nats; 0 where there is none."""
    labelled_BK: Tensor
    """Whether there is a label."""
    log_p_ref_B: Tensor | None
    """Summed log-probability of each answer under the frozen reference, nats; with the weights of `weight_BK` where the
    method needs those too. None unless the method needs it."""
    of_examples: int
    """Examples on this side of the whole effective batch."""
    of_tokens: int
    """Labelled tokens on this side of the whole effective batch."""
    weight_BK: Tensor | None = None
    """Weight of each labelled token, ≥ 0, mean 1 over an answer, 0 where there is no label; None unless the method needs it."""

    @property
    def log_p_B(self) -> Tensor:
        """Summed log-probability of each answer, nats."""
        return self.log_p_BK.sum(1)

    @property
    def nll(self) -> Tensor:
        """This micro-batch's share of the mean negative log-likelihood of the whole batch, nats a token."""
        return -self.log_p_BK.sum() / self.of_tokens

    def mean(self, loss_B: Tensor) -> Tensor:
        """This micro-batch's share of the mean of a per-example loss over the whole batch."""
        return loss_B.sum() / self.of_examples


class Losses(NamedTuple):
    """The two sides of a step's loss; their sum is minimised."""

    forget: Tensor
    retain: Tensor


class Method(NamedTuple):
    """A way to unlearn."""

    name: str
    config: type[Any]
    """The frozen dataclass of its settings."""
    loss: Callable[[Any, Scores, Scores | None], Losses]
    """(config, forget side, retain side) → losses."""
    needs: frozenset[Need]
    paper: str
    """Where it was published."""

    @property
    def summary(self) -> str:
        """One line: what it does."""
        return (self.config.__doc__ or "").strip().splitlines()[0]
