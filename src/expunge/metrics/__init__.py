"""Pure functions of evidence: one file each.

Shapes, here and in every file: B examples of a set, T labelled tokens of one answer (the end token included).
A metric of B examples takes one sequence of length B for each part of the evidence it `needs`, in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.registry import Registry

FloatArray: TypeAlias = NDArray[np.floating[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]
Measure = TypeVar("Measure", bound=Callable[..., Any])


class Part(StrEnum):
    """What the evidence holds of one example; the value is the name of the field."""

    LOG_P = "log_p_T"
    """(T,) log-probability of each labelled token, nats."""
    HITS = "hits_T"
    """(T,) whether the labelled token is the most likely one under teacher forcing."""
    GENERATED = "generated"
    """The greedy answer."""
    EXPECTED = "expected"
    """The answer of the data."""


class Direction(StrEnum):
    """Which way is better *on the forget set*; what must stay is better the other way."""

    LOWER = "lower"
    HIGHER = "higher"
    MIDDLE = "middle"
    """Near the value of a model that never saw the forget set: to both sides of it something leaks."""


class Over(StrEnum):
    """How the values of the examples become one number of a set."""

    EXAMPLES = "examples"
    """Their mean. The measure returns (B,) values."""
    TOKENS = "tokens"
    """exp of all nats over all tokens. The measure returns `Totals`."""
    MEMBERS = "members"
    """ROC AUC against the holdout. The measure returns (B,) scores, higher = more likely a member of the training set."""


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    name: str
    measure: Callable[..., Any]
    needs: tuple[Part, ...]
    better: Direction
    span: tuple[float, float | None]
    """Least and greatest value for a set; None: unbounded."""
    over: Over


METRICS: Registry[Metric] = Registry("metric", __name__)


def metric(
    name: str, *, needs: tuple[Part, ...], better: Direction, span: tuple[float, float | None], over: Over = Over.EXAMPLES
) -> Callable[[Measure], Measure]:
    """Register the function below as a metric; the function itself stays as it is."""

    def register(measure: Measure) -> Measure:
        METRICS.add(name, Metric(name, measure, needs, better, span, over))
        return measure

    return register
