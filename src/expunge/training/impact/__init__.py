"""Which tokens of a training example mattered: estimators, one file each, found by their being there.

An estimator gives every token of a sequence one number; greater is more. Numbers of different estimators do not compare, so
the ledger keeps the estimator's name with the run.

Shapes, here and in every file: B examples of a pass, T tokens of the longest, K positions from the first labelled token on,
D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from expunge.errors import ExpungeError, at_least
from expunge.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.batching import Tokenized


@dataclass(frozen=True, kw_only=True)
class ImpactConfig:
    """Which tokens the ledger keeps as those that mattered; without a ledger nothing is measured."""

    impact: str = "removal"
    """How token impact is estimated: `removal`, `gradient`, `loss`, `hidden-norm`, or `occlusion` (exact, hundreds of times
    slower)."""
    impact_percentile: float = 95.0
    """Keep the tokens at or above this percentile of their sequence; 0 keeps all, 100 the greatest alone."""
    impact_top_k: int | None = None
    """Keep so many tokens of every sequence instead."""
    impact_context: int = 5
    """Tokens before and after a kept one that make its context window."""

    def check(self) -> None:
        """Refuse what means nothing.

        Raises:
            ExpungeError: no such estimator, or a number out of its range.
        """
        ESTIMATORS[self.impact]
        at_least(0, impact_percentile=self.impact_percentile, impact_context=self.impact_context)
        at_least(1, impact_top_k=self.impact_top_k)
        if self.impact_percentile > 100:
            raise ExpungeError(f"--impact-percentile is {self.impact_percentile:g}", remedy="give at most 100")


class Part(StrEnum):
    """What an estimator hears of a training pass, beside the log-probabilities."""

    EMBEDDING = "embedding"
    """The input embeddings, with the gradient they got."""
    HIDDEN = "hidden"
    """The last hidden states: what the output head reads."""
    EARLY = "early"
    """The labelled tokens' log-probabilities as predicted one place earlier."""


class Pass(NamedTuple):
    """A forward pass of training and the backward pass after it, as far as an estimator may know them."""

    model: nn.Module
    """As it was in the pass: the step has not been taken yet. An estimator leaves it, and its gradients, as they are."""
    examples: Sequence[Tokenized]
    wanted_B: Sequence[bool]
    """Which examples are to be recorded; what is said of the others is not looked at."""
    log_p_BK: Tensor
    """Log-probability of each labelled token, nats, 0 where there is none; `.grad` is what it got from the loss."""
    embedding_BTD: Tensor | None
    """None unless `Part.EMBEDDING` is heard; `.grad` is None where the pass had no part in the loss."""
    hidden_BTD: Tensor | None
    """None unless `Part.HIDDEN` is heard."""
    early_BK: Tensor | None = None
    """Log-probability of each labelled token as predicted without the one before it; where that one is not labelled, as
    `log_p_BK`. None unless `Part.EARLY` is heard."""

    @property
    def longest(self) -> int:
        """T."""
        return max(len(example.tokens) for example in self.examples)


Measure = Callable[[Pass], "Tensor"]


class Estimator(NamedTuple):
    """A way to estimate token impact."""

    name: str
    measure: Measure
    """The impact of each token, shape (B, T), without a gradient; what stands at padding is not looked at."""
    hears: frozenset[Part]


ESTIMATORS: Registry[Estimator] = Registry("token-impact estimator", __name__)


def estimator(name: str, *, hears: tuple[Part, ...] = ()) -> Callable[[Measure], Measure]:
    """Register the function below as an estimator; the function itself stays as it is."""

    def register(measure: Measure) -> Measure:
        ESTIMATORS.add(name, Estimator(name, measure, frozenset(hears)))
        return measure

    return register
