"""From evidence to numbers: every metric of every model on every set, with its interval.

The one place that knows which metrics a model's evidence allows, and which examples of two models belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from expunge.audit import bootstrap
from expunge.audit.bootstrap import Interval
from expunge.audit.results import Score
from expunge.errors import ExpungeError
from expunge.metrics import METRICS, BoolArray, FloatArray, Metric, Over
from expunge.metrics.perplexity import Totals, perplexity

Finish = Callable[[FloatArray], FloatArray]


class Answered(NamedTuple):
    """What one model did with one example. The fields named in `metrics.Part` are what metrics are made of."""

    subject: str
    prompt: str
    expected: str
    log_p_T: FloatArray | None = None
    """(T,) log-probability of each labelled token of the expected answer, nats; None: could not be had from this model."""
    hits_T: BoolArray | None = None
    """(T,) whether that token is the most likely one; None as above."""
    generated: str | None = None
    """The greedy answer; None: nothing was generated for this set."""


class Place(NamedTuple):
    """Where evidence comes from."""

    model: str
    """`target`, `unlearned`, `retrained` or `shipped`."""
    set: str
    """`forget`, `retain`, `holdout` or `ordinary`."""


class Measured:
    """The values of every metric that the evidence allows, and intervals over them."""

    def __init__(
        self,
        evidence: Mapping[Place, Sequence[Answered]],
        metrics: Iterable[str] | None = None,
        *,
        draws: int = bootstrap.DRAWS,
        seed: int = 0,
    ) -> None:
        """Measure.

        Args:
            evidence: the examples of each set under each model, in the same order under each model.
            metrics: names of metrics; None: all.
            draws: draws of people for each interval.
            seed: fixes the intervals.

        Raises:
            ExpungeError: an unknown metric, an empty set, or evidence that is broken (see the metrics).
            ValueError: two models were asked different examples of one set, or evidence is there for some examples only.
        """
        self._draws, self._seed = draws, seed
        self._subjects = _subjects(evidence)
        self._metrics = {name: METRICS[name] for name in (METRICS if metrics is None else metrics)}
        self._values: dict[tuple[str, Place], FloatArray | Totals] = {}
        for name, metric in self._metrics.items():
            for place, examples in evidence.items():
                if _has_parts(metric, place, examples):
                    parts = ([getattr(example, part) for example in examples] for part in metric.needs)
                    self._values[name, place] = metric.measure(*parts)
        self._scores = {
            (name, place): score
            for name, metric in self._metrics.items()
            for place in evidence
            if (score := self._score(metric, place)) is not None
        }

    @property
    def scores(self) -> tuple[Score, ...]:
        """Every score, by metric, then in the order of the evidence."""
        return tuple(self._scores.values())

    def score(self, metric: str, model: str, set: str) -> Score | None:
        """The score of that metric, model and set; None: not measured. An AUC is a score of the forget set."""
        return self._scores.get((metric, Place(model, set)))

    def ratio(self, metric: str, model: str, over: str, set: str) -> Interval | None:
        """One model's score over another's, both on the same people; None: one of them was not measured.

        None too where the ratio has no meaning: the other model scores 0, or has a perplexity over other tokens.
        """
        first, second = self._values.get((metric, Place(model, set))), self._values.get((metric, Place(over, set)))
        if first is None or second is None:
            return None
        if isinstance(first, Totals) and isinstance(second, Totals):
            if not np.array_equal(first.tokens_B, second.tokens_B):
                return None  # other tokenizers: perplexities of other units
            # A ratio of perplexities is exp of the difference in nats per token.
            return self._interval(set, first.nats_B - second.nats_B, first.tokens_B, perplexity)
        below = np.asarray(second)
        return self._interval(set, np.asarray(first), below) if below.any() else None

    def difference(self, metric: str, model: str, reference: str, set: str) -> Interval | None:
        """Mean of one model's values less the other's, on the same people; None: one of them was not measured."""
        first, second = self._values.get((metric, Place(model, set))), self._values.get((metric, Place(reference, set)))
        if first is None or second is None or isinstance(first, Totals) or isinstance(second, Totals):
            return None
        return bootstrap.difference_interval(first, second, self._subjects[set], draws=self._draws, seed=self._seed)

    def by_person(self, metric: str, model: str, set: str) -> dict[str, float]:
        """The mean of each person's examples, by subject; empty: not measured."""
        values = self._values.get((metric, Place(model, set)))
        if values is None or isinstance(values, Totals):
            return {}
        found: dict[str, list[float]] = {}
        for subject, value in zip(self._subjects[set], values, strict=True):
            found.setdefault(subject, []).append(float(value))
        return {subject: sum(own) / len(own) for subject, own in found.items()}

    def drift(self, model: str, reference: str) -> Interval | None:
        """How much further a model's forget set lies from its holdout than the reference's does, in nats per token.

        (loss on forget - loss on holdout) of the model, less the same of the reference, on the same people. Above 0: the model
        finds the forget people less likely, compared with people it never saw, than the reference does.
        """
        found = [
            np.asarray(self._values[key])
            for role, name in ((model, "forget"), (reference, "forget"), (model, "holdout"), (reference, "holdout"))
            if (key := ("loss", Place(role, name))) in self._values
        ]
        if len(found) < 4:
            return None
        return bootstrap.difference_interval(
            found[0],
            found[1],
            self._subjects["forget"],
            against=(found[2], found[3], self._subjects["holdout"]),
            draws=self._draws,
            seed=self._seed,
        )

    def people(self, set: str) -> int:
        """How many people a set speaks of; 0: there is no such set."""
        return len({*self._subjects.get(set, ())})

    def _score(self, metric: Metric, place: Place) -> Score | None:
        values = self._values.get((metric.name, place))
        if values is None:
            return None
        subjects = self._subjects[place.set]
        shown: tuple[float, ...] = ()
        if metric.over is Over.MEMBERS:
            others = self._values.get((metric.name, Place(place.model, "holdout")))
            if place.set != "forget" or others is None:
                return None
            found = bootstrap.auc_interval(
                np.asarray(values), subjects, np.asarray(others), self._subjects["holdout"], draws=self._draws, seed=self._seed
            )
        elif isinstance(values, Totals):
            found = self._interval(place.set, values.nats_B, values.tokens_B, perplexity)
        else:
            found = self._interval(place.set, values, np.ones(len(values)))
            shown = tuple(float(value) for value in values)
        return Score(metric.name, place.model, place.set, *found, better=metric.better.value, span=metric.span, values=shown)

    def _interval(self, set: str, over: FloatArray, under: FloatArray, finish: Finish = np.asarray) -> Interval:
        return bootstrap.ratio_interval(over, under, self._subjects[set], finish=finish, draws=self._draws, seed=self._seed)


def _subjects(evidence: Mapping[Place, Sequence[Answered]]) -> dict[str, tuple[str, ...]]:
    """Who each example of each set is about, which must be the same under every model."""
    found: dict[str, tuple[str, ...]] = {}
    asked: dict[str, list[tuple[str, str, str]]] = {}
    for place, examples in evidence.items():
        if not examples:
            raise ExpungeError(f"the {place.set} set is empty", remedy="give the audit at least one example of it")
        rows = [example[:3] for example in examples]
        if asked.setdefault(place.set, rows) != rows:
            raise ValueError(f"{place.model} was asked other examples of the {place.set} set than the models before it")
        found[place.set] = tuple(example.subject for example in examples)
    return found


def _has_parts(metric: Metric, place: Place, examples: Sequence[Answered]) -> bool:
    counts = {part: sum(getattr(example, part) is not None for example in examples) for part in metric.needs}
    for part, count in counts.items():
        if 0 < count < len(examples):
            raise ValueError(f"{place.model} has {part} of {count} of the {len(examples)} examples of the {place.set} set")
    return all(counts.values())
