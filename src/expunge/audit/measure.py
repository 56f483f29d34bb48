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
from expunge.metrics import METRICS, OF_THE_DATA, BoolArray, FloatArray, Metric, Over
from expunge.metrics.perplexity import Totals, perplexity
from expunge.metrics.privleak import privleak
from expunge.metrics.truth_ratio import ks_p_value

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
    entropy_T: FloatArray | None = None
    variance_T: FloatArray | None = None
    paraphrased_N: FloatArray | None = None
    perturbed_N: FloatArray | None = None
    right: int | None = None
    letters_N: FloatArray | None = None
    options_N2: FloatArray | None = None
    permuted_PN: FloatArray | None = None
    prefixed: str | None = None
    samples: Sequence[str] | None = None
    gradient_norm: float | None = None
    lens_L: FloatArray | None = None
    hidden_LD: FloatArray | None = None


class Place(NamedTuple):
    """Where evidence comes from."""

    model: str
    """`target`, `unlearned`, `retrained` or `shipped`; `unlearned-1`, `unlearned-2`, … of several runs."""
    set: str
    """`forget`, `retain`, `holdout`, `ordinary`, or the name of a further set."""


class _Values(NamedTuple):
    """A metric of the examples of one place that it applies to."""

    values_B: FloatArray | Totals
    subjects_B: tuple[str, ...]


class Measured:
    """The values of every metric that the evidence allows, and intervals over them."""

    def __init__(
        self,
        evidence: Mapping[Place, Sequence[Answered]],
        metrics: Iterable[str] | None = None,
        *,
        runs: Mapping[str, Sequence[str]] | None = None,
        draws: int = bootstrap.DRAWS,
        seed: int = 0,
    ) -> None:
        """Measure.

        Args:
            evidence: the examples of each set under each model, in the same order under each model.
            metrics: names of metrics; None: all.
            runs: role → roles of several runs of one recipe (other seeds) that it stands for. Its values are their means, and
                its intervals tell what other runs might have given too.
            draws: draws of people for each interval.
            seed: fixes the intervals.

        Raises:
            ExpungeError: an unknown metric, an empty set, or evidence that is broken (see the metrics).
            ValueError: two models were asked different examples of one set, or evidence is there for some examples only.
        """
        self._draws, self._seed, self._runs = draws, seed, dict(runs or {})
        self._subjects = _subjects(evidence)
        self._evidence = evidence
        self._metrics = {name: METRICS[name] for name in (METRICS if metrics is None else metrics)}
        parts = {name: each for metric in self._metrics.values() for each in metric.of.values() for name in each}
        measured = self._metrics | {name: METRICS[name] for name in parts}
        self._values: dict[tuple[str, Place], _Values] = {}
        # Two metrics may be made of one measure.
        known: dict[tuple[object, Place], _Values | None] = {}
        for name, metric in measured.items():
            if metric.over in (Over.PROBE, Over.SETS):
                continue
            for place in evidence:
                key = (metric.measure, place)
                if key not in known:
                    known[key] = self._measure(metric, place)
                if (values := known[key]) is not None:
                    self._values[name, place] = values
            for role, own in self._runs.items():
                for set in dict.fromkeys(place.set for place in evidence):
                    found = [self._values.get((name, Place(run, set))) for run in own]
                    if values := _mean(found):
                        self._values[name, Place(role, set)] = values
        places = [*evidence, *(Place(role, set) for role in self._runs for set in self._subjects)]
        self._drawn: dict[tuple[str, Place], bootstrap.Drawn | None] = {}
        self._scores: dict[tuple[str, Place], Score] = {}
        for name, metric in self._metrics.items():
            spots = [Place(role, "utility") for role in dict.fromkeys(place.model for place in places)]
            for place in spots if metric.over is Over.SETS else places:
                score = self._score(metric, place)
                if score is not None:
                    self._scores[name, place] = score
        # The hidden states of a large set are hundreds of megabytes, and nothing asks for them any more.
        self._evidence = {}

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
        subjects = first.subjects_B
        if isinstance(first.values_B, Totals) and isinstance(second.values_B, Totals):
            if not np.array_equal(first.values_B.tokens_B, second.values_B.tokens_B):
                return None  # other tokenizers: perplexities of other units
            # A ratio of perplexities is exp of the difference in nats per token.
            nats_B = first.values_B.nats_B - second.values_B.nats_B
            return self._ratio(subjects, nats_B, first.values_B.tokens_B, perplexity).interval
        below = np.asarray(second.values_B)
        return self._ratio(subjects, np.asarray(first.values_B), below).interval if below.any() else None

    def difference(self, metric: str, model: str, reference: str, set: str) -> Interval | None:
        """Mean of one model's values less the other's, on the same people; None: one of them was not measured."""
        first, second = self._values.get((metric, Place(model, set))), self._values.get((metric, Place(reference, set)))
        if first is None or second is None or isinstance(first.values_B, Totals) or isinstance(second.values_B, Totals):
            return None
        return bootstrap.difference_interval(
            first.values_B, second.values_B, first.subjects_B, draws=self._draws, seed=self._seed
        )

    def by_person(self, metric: str, model: str, set: str) -> dict[str, float]:
        """The mean of each person's examples, by subject; of several runs the greatest; empty: not measured."""
        if model in self._runs:
            runs = [self.by_person(metric, run, set) for run in self._runs[model]]
            return {subject: max(run.get(subject, -np.inf) for run in runs) for subject in runs[0]} if all(runs) else {}
        values = self._values.get((metric, Place(model, set)))
        if values is None or isinstance(values.values_B, Totals):
            return {}
        found: dict[str, list[float]] = {}
        for subject, value in zip(values.subjects_B, values.values_B, strict=True):
            found.setdefault(subject, []).append(float(value))
        return {subject: sum(own) / len(own) for subject, own in found.items()}

    def drift(self, model: str, reference: str) -> Interval | None:
        """How much further a model's forget set lies from its holdout than the reference's does, in nats per token.

        (loss on forget - loss on holdout) of the model, less the same of the reference, on the same people. Above 0: the model
        finds the forget people less likely, compared with people it never saw, than the reference does.
        """
        found = [
            np.asarray(self._values[key].values_B)
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

    def _measure(self, metric: Metric, place: Place) -> _Values | None:
        """The metric of each example that it applies to; None: of none."""
        examples = self._evidence[place]
        others = self._evidence.get(Place("retrained", place.set), ()) if metric.beside_retrained else examples
        if metric.beside_retrained and place.model == "retrained":
            return None
        here = _with_parts(metric, place, examples)
        if not here or not others or _with_parts(metric, Place("retrained", place.set), others) != here:
            return None
        sides = (examples, others) if metric.beside_retrained else (examples,)
        parts = (*metric.needs, *metric.may)
        values = metric.measure(*([getattr(side[at], part) for at in here] for side in sides for part in parts))
        subjects = tuple(examples[at].subject for at in here)
        if isinstance(values, Totals):
            return _Values(values, subjects)
        applies = ~np.isnan(values)
        kept = tuple(subject for subject, keep in zip(subjects, applies, strict=True) if keep)
        return _Values(values[applies], kept) if kept else None

    def _score(self, metric: Metric, place: Place) -> Score | None:
        shown: tuple[float, ...] = ()
        values = self._values.get((metric.name, place))
        if metric.over is Over.DISTRIBUTION:
            found = self._against_retrained(metric, place)
        else:
            drawn = self._draw(metric, place)
            found = drawn.interval if drawn else None
        if found is None:
            return None
        if metric.over is Over.EXAMPLES and values is not None:
            shown = tuple(float(value) for value in np.asarray(values.values_B))
        return Score(metric.name, place.model, place.set, *found, better=metric.better.value, span=metric.span, values=shown)

    def _draw(self, metric: Metric, place: Place) -> bootstrap.Drawn | None:
        key = (metric.name, place)
        if key not in self._drawn:
            if place.model in self._runs:
                own = [self._draw(metric, Place(run, place.set)) for run in self._runs[place.model]]
                whole = [each for each in own if each is not None]
                self._drawn[key] = bootstrap.pooled(whole, self._seed) if len(whole) == len(own) else None
            else:
                self._drawn[key] = self._draw_one(metric, place)
        return self._drawn[key]

    def _draw_one(self, metric: Metric, place: Place) -> bootstrap.Drawn | None:
        if metric.over is Over.SETS:
            return self._over_sets(metric, place.model)
        if metric.over in (Over.MEMBERS, Over.MEMBERS_AT_FPR, Over.PROBE):
            return self._over_members(metric, place)
        if metric.over is Over.AGAINST_RETRAINED:
            mine = self._over_members(metric, place)
            reference = self._over_members(metric, Place("retrained", place.set))
            return mine.then(privleak, reference) if mine and reference else None
        values = self._values.get((metric.name, place))
        if values is None:
            return None
        if isinstance(values.values_B, Totals):
            return self._ratio(values.subjects_B, values.values_B.nats_B, values.values_B.tokens_B, perplexity)
        return self._ratio(values.subjects_B, values.values_B, np.ones(len(values.values_B)))

    def _over_members(self, metric: Metric, place: Place) -> bootstrap.Drawn | None:
        """Of the forget set's scores against the holdout's."""
        if place.set != "forget":
            return None
        holdout = Place(place.model, "holdout")
        if metric.over is Over.PROBE:
            sides = []
            for side in (place, holdout):
                examples = self._evidence.get(side, ())
                here = _with_parts(metric, side, examples)
                own = [getattr(examples[at], metric.needs[0]) for at in here]
                sides.append((own, [examples[at].subject for at in here]))
            (members, member_subjects), (others, other_subjects) = sides
            found = metric.measure(members, others, member_subjects, other_subjects) if members and others else None
            if found is None:
                return None
            return bootstrap.auc_drawn(*found, draws=self._draws, seed=self._seed)
        first, second = self._values.get((metric.name, place)), self._values.get((metric.name, holdout))
        if first is None or second is None:
            return None
        draw = bootstrap.tpr_drawn if metric.over is Over.MEMBERS_AT_FPR else bootstrap.auc_drawn
        return draw(
            np.asarray(first.values_B),
            first.subjects_B,
            np.asarray(second.values_B),
            second.subjects_B,
            draws=self._draws,
            seed=self._seed,
        )

    def _over_sets(self, metric: Metric, model: str) -> bootstrap.Drawn | None:
        parts = []
        for number, (set, names) in enumerate(metric.of.items()):
            for name in names:
                values = self._values.get((name, Place(model, set)))
                if values is None:
                    return None
                of_B = np.asarray(values.values_B)
                # People of different sets are drawn apart, even where there are as many of them.
                parts.append(
                    bootstrap.ratio_drawn(
                        of_B, np.ones(len(of_B)), values.subjects_B, draws=self._draws, seed=self._seed + 10 * number
                    )
                )

        def together(*each: FloatArray) -> FloatArray:
            return np.asarray(metric.measure(np.stack(each, -1)))

        return parts[0].then(together, *parts[1:])

    def _against_retrained(self, metric: Metric, place: Place) -> Interval | None:
        """A p-value speaks of uncertainty itself, and has no interval."""
        first = self._values.get((metric.name, place))
        second = self._values.get((metric.name, Place("retrained", place.set)))
        if first is None or second is None or place.set != "forget" or place.model == "retrained":
            return None
        value = ks_p_value(np.asarray(first.values_B), np.asarray(second.values_B))
        return Interval(value, value, value, len({*first.subjects_B}))

    def _ratio(
        self, subjects: Sequence[str], over: FloatArray, under: FloatArray, finish: Finish = np.asarray
    ) -> bootstrap.Drawn:
        return bootstrap.ratio_drawn(over, under, subjects, finish=finish, draws=self._draws, seed=self._seed)


def _mean(runs: Sequence[_Values | None]) -> _Values | None:
    """Of several runs, example by example; None: one of them has no values, or of other examples."""
    whole = [run for run in runs if run is not None]
    if not whole or len(whole) < len(runs) or any(run.subjects_B != whole[0].subjects_B for run in whole):
        return None
    first = whole[0].values_B
    if isinstance(first, Totals):
        nats = np.mean([run.values_B.nats_B for run in whole if isinstance(run.values_B, Totals)], axis=0)
        return _Values(Totals(nats, first.tokens_B), whole[0].subjects_B)
    return _Values(np.mean([np.asarray(run.values_B) for run in whole], axis=0), whole[0].subjects_B)


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


def _with_parts(metric: Metric, place: Place, examples: Sequence[Answered]) -> list[int]:
    """The places of the examples that have all the metric needs."""
    here = list(range(len(examples)))
    for part in metric.needs:
        has = [at for at in here if getattr(examples[at], part) is not None]
        if 0 < len(has) < len(here) and part not in OF_THE_DATA:
            raise ValueError(f"{place.model} has {part} of {len(has)} of the {len(here)} examples of the {place.set} set")
        here = has
    return here
