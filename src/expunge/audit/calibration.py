"""Does a metric tell? Measured on models of which it is known whether they saw the facts.

The meta-evaluation of OpenUnlearning (Dorna et al. 2025, arXiv 2506.12618, section 4), for every metric of an audit:

- **faithfulness**: the AUC with which the metric tells models that were taught the facts from models that were taught as many
  other facts instead;
- **robustness to relearning**: whether an unlearned model gains no more of the metric from one more epoch on the facts than a
  model gains that never saw them;
- **robustness to quantisation**: whether the metric of an unlearned model stays where it was when its weights are rounded to 4
  bits.

The robustness of a metric is asked only on unlearned models of which the metric itself says that the facts are gone: a metric
that reports what is left has nothing hidden from it. What was measured is kept in `calibrated.jsonl` beside this file, and
the verdict goes by it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from expunge.audit.results import Score
from expunge.metrics.auc import auc

TRUSTED_AUC = 0.9
"""Faithfulness from which a verdict may rest on a metric."""
_CALIBRATED = "calibrated.jsonl"


class Pool(NamedTuple):
    """Scores of one metric on the forget set, of models that differ in what they know of it."""

    knowing: Sequence[Score]
    """Of models that were taught the facts."""
    ignorant: Sequence[Score]
    """Of models that were taught others instead."""


class Tried(NamedTuple):
    """Scores of one metric on the forget set around one unlearned model."""

    unlearned: Score
    relearned: Score
    """The unlearned model after one more epoch on the facts."""
    rounded: Score
    """The unlearned model with its weights rounded to 4 bits."""
    retrained: Score
    """The reference, which never saw the facts."""
    taught: Score
    """The reference after one epoch on the facts."""


@dataclass(frozen=True)
class Reliability:
    """How far a metric can be believed."""

    metric: str
    auc: float
    """Faithfulness, in [0, 1]: 1, every model that knows stands above every one that does not; .5, no better than chance."""
    knowing: int
    """Models that were taught the facts."""
    ignorant: int
    """Models that were not."""
    threshold: float
    """Value of the metric that splits the two sides best."""
    relearning: float | None
    """Mean robustness to relearning, in [0, 1], 1 best; None: by this metric none of the unlearned models has forgotten."""
    quantisation: float | None
    """Mean robustness to 4-bit quantisation, likewise; None too where the metric's values have no ratio."""
    forgotten: int
    """Unlearned models that the metric found to have forgotten, over which the two means are taken."""
    tried: int
    """Unlearned models in all."""

    @property
    def trusted(self) -> bool:
        """Whether a verdict may rest on it."""
        return self.auc >= TRUSTED_AUC


def knowledge(score: Score, inverted: bool = False) -> float:
    """A score turned so that more of it means more known: as it is, or negative where higher is better on the forget set.

    Args:
        score: of any metric.
        inverted: whether a lower value means more known, where the metric is best in the middle and does not say so itself.
    """
    return -score.value if score.better == "higher" or inverted else score.value


def faithfulness(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """AUC of a metric over models, in [0, 1]; higher is better, .5 is chance.

    Args:
        knowing: `knowledge` of models that were taught the facts.
        ignorant: of models that were not.

    Raises:
        ValueError: one side is empty or not finite.
    """
    return auc(np.asarray(knowing, np.float64), np.asarray(ignorant, np.float64))


def best_threshold(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """The value from which on a model is best taken to know: the greatest mean of the shares that are right on either side.

    Half-way between neighbours; of several equally good ones the highest, which takes fewest for knowing.
    """
    values = sorted({*knowing, *ignorant})
    cuts = [values[0], *((low + high) / 2 for low, high in pairwise(values)), math.nextafter(values[-1], math.inf)]
    return max(
        cuts,
        key=lambda cut: (
            sum(value >= cut for value in knowing) / len(knowing) + sum(value < cut for value in ignorant) / len(ignorant),
            cut,
        ),
    )


def relearning_robustness(unlearned: float, relearned: float, retrained: float, taught: float) -> float:
    """What the reference gains from an epoch on the facts, over what the unlearned model gains: min(gain / gain, 1), in [0, 1].

    1: the unlearned model learns them no faster than one that never saw them, so nothing was hidden from the metric. 0: it
    gains, and the reference does not. Arguments are `knowledge` before and after; one that gains nothing hides nothing.
    """
    gain, fair = relearned - unlearned, taught - retrained
    return 1.0 if gain <= 0 else min(max(fair, 0.0) / gain, 1.0)


def quantisation_robustness(unlearned: float, rounded: float) -> float:
    """Before over after rounding: min(before / after, 1), in [0, 1]; 1: rounding brought nothing back.

    Arguments are `knowledge`, ≥ 0.

    Raises:
        ValueError: a value is below 0, and has no ratio.
    """
    if min(unlearned, rounded) < 0:
        raise ValueError("a ratio of values below 0 means nothing")
    return 1.0 if rounded <= unlearned else unlearned / rounded


def reliability(metric: str, pool: Pool, tried: Iterable[Tried]) -> Reliability:
    """How far a metric can be believed, from its scores on the pool and around the unlearned models."""
    inverted = _inverted(pool)

    def known(score: Score) -> float:
        return knowledge(score, inverted)

    knowing, ignorant = ([known(score) for score in side] for side in pool)
    cut = best_threshold(knowing, ignorant)
    tried = list(tried)
    forgotten = [each for each in tried if known(each.unlearned) < cut]
    relearning = [
        relearning_robustness(*map(known, (each.unlearned, each.relearned, each.retrained, each.taught))) for each in forgotten
    ]
    quantisation = [_quantisation(each.unlearned, each.rounded, inverted) for each in forgotten]
    ratios = [each for each in quantisation if each is not None]
    return Reliability(
        metric,
        auc=faithfulness(knowing, ignorant),
        knowing=len(knowing),
        ignorant=len(ignorant),
        threshold=-cut if pool.knowing[0].better == "higher" or inverted else cut,
        relearning=_mean(relearning),
        quantisation=_mean(ratios) if len(ratios) == len(quantisation) else None,
        forgotten=len(forgotten),
        tried=len(tried),
    )


@cache
def calibrated() -> tuple[Reliability, ...]:
    """What was measured of the metrics, by descending faithfulness: the table that ships with the package, if one does."""
    table = files("expunge.audit").joinpath(_CALIBRATED)
    return tuple(read_table(table.read_text("utf-8"))) if table.is_file() else ()


def read_table(text: str) -> list[Reliability]:
    """The rows of a `calibration.jsonl`, the most faithful first."""
    rows = [Reliability(**json.loads(line)) for line in text.splitlines()]
    return sorted(rows, key=lambda row: (-row.auc, row.metric))


def as_rows(table: Iterable[Reliability]) -> list[dict[str, object]]:
    """The table as JSON objects, numbers to four digits."""
    return [
        {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(row).items()} for row in table
    ]


def _inverted(pool: Pool) -> bool:
    """Whether a metric that is best in the middle is lower of those that know: an attacker reads it either way."""
    knowing, ignorant = ([score.value for score in side] for side in pool)
    return pool.knowing[0].better == "middle" and faithfulness(knowing, ignorant) < 0.5


def _quantisation(before: Score, after: Score, inverted: bool) -> float | None:
    low, high = before.span
    if before.better != "higher" and not inverted:
        # A value that may lie below 0 has no ratio.
        return quantisation_robustness(before.value, after.value) if low >= 0 else None
    if high is None or low < 0:
        # Unbounded, such as a perplexity: what is known is its inverse.
        return quantisation_robustness(1 / before.value, 1 / after.value) if before.value > 0 and after.value > 0 else None
    return quantisation_robustness(high - before.value, high - after.value)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
