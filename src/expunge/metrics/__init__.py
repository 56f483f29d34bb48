"""Pure functions of evidence: one file each.

Shapes, here and in every file: B examples of a set, T labelled tokens of one answer (the end token included).
A metric of B examples takes one sequence of length B for each part of the evidence it `needs`, in that order, then for each
it `may` use, whose entries may be None. Where a metric does not apply to an example, its value is NaN, and the example is left
out of the set's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    PROMPT = "prompt"
    """The question."""
    ENTROPY = "entropy_T"
    """(T,) entropy of the distribution each labelled token was to come from, nats."""
    VARIANCE = "variance_T"
    """(T,) variance of log p under that distribution, nats²."""
    PARAPHRASED = "paraphrased_N"
    """(N,) mean log-probability a token of each paraphrase of the answer."""
    PERTURBED = "perturbed_N"
    """(N,) mean log-probability a token of each wrong answer in the same words."""
    RIGHT = "right"
    """Which option of a multiple-choice question is right, from 0."""
    LETTERS = "letters_N"
    """(N,) log-probability of the letter of each option."""
    OPTIONS = "options_N2"
    """(N, 2) summed log-probability of each option written out, and its characters."""
    PERMUTED = "permuted_PN"
    """(P, N) log-probability of the letter of each option with the options moved round, P orders."""
    PREFIXED = "prefixed"
    """The greedy answer after an obliging beginning."""
    SAMPLES = "samples"
    """Answers drawn at temperature 1."""
    GRADIENT = "gradient_norm"
    """Norm of the gradient of the answer's loss with respect to all weights."""
    LENS = "lens_L"
    """(L,) mean log-probability a token of the answer after the embedding and after each layer."""
    HIDDEN = "hidden_LD"
    """(L, D) mean hidden state over the answer's tokens, at a few layers."""


DEAR = frozenset({Part.PERMUTED, Part.PREFIXED, Part.SAMPLES, Part.GRADIENT, Part.LENS, Part.HIDDEN})
"""Evidence that takes passes of its own, and is recorded only when a metric that needs it is asked for by name or by `all`."""
OF_THE_DATA = frozenset({Part.PARAPHRASED, Part.PERTURBED, Part.RIGHT, Part.LETTERS, Part.OPTIONS, Part.PERMUTED})
"""Evidence that only some examples of a set may have, since it is about what the data say of them."""


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
    MEMBERS_AT_FPR = "members at 1% false positives"
    """Share of members found while 1% of the holdout is mistaken for members. The measure is as for `members`."""
    AGAINST_RETRAINED = "members against retrained"
    """PrivLeak of that AUC beside the retrained model's. The measure is as for `members`."""
    DISTRIBUTION = "distribution against retrained"
    """p-value of a two-sample test of (B,) values against the retrained model's. The measure returns them."""
    PROBE = "probe"
    """ROC AUC as above. The measure takes members, others, and the subjects of both, and returns the scores of both."""
    SETS = "sets"
    """One number of several metrics on several sets: `of`, by set. The measure takes (…, metrics) and returns (…)."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A registered metric."""

    name: str
    measure: Callable[..., Any]
    needs: tuple[Part, ...]
    """Parts without which it says nothing, in the order the measure takes them."""
    better: Direction
    span: tuple[float, float | None]
    """Least and greatest value for a set; None: unbounded."""
    paper: str
    """Where it was first described."""
    over: Over = Over.EXAMPLES
    may: tuple[Part, ...] = ()
    """Parts it uses where they are there."""
    beside_retrained: bool = False
    """Whether the measure takes the same parts of the retrained model too, after the model's own."""
    of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Over sets: set → names of the metrics that go into it."""

    @property
    def dear(self) -> bool:
        """Whether its evidence takes passes that are not recorded unless asked for."""
        return bool(DEAR & {*self.needs})

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return (self.measure.__doc__ or "").strip().partition("\n")[0]


METRICS: Registry[Metric] = Registry("metric", __name__)


def metric(name: str, **settings: Any) -> Callable[[Measure], Measure]:
    """Register the function below as a metric, with the fields of `Metric`; the function itself stays as it is."""

    def register(measure: Measure) -> Measure:
        METRICS.add(name, Metric(name=name, measure=measure, **settings))
        return measure

    return register


def membership(name: str, *, needs: tuple[Part, ...], paper: str, **settings: Any) -> Callable[[Measure], Measure]:
    """Register the scores of a membership attack as two metrics: its AUC (`<name>-auc`) and what it finds for sure (`-tpr`)."""

    def register(measure: Measure) -> Measure:
        for suffix, over in (("auc", Over.MEMBERS), ("tpr", Over.MEMBERS_AT_FPR)):
            better, span = Direction.MIDDLE, (0.0, 1.0)
            metric(f"{name}-{suffix}", needs=needs, better=better, span=span, over=over, paper=paper, **settings)(measure)
        return measure

    return register
