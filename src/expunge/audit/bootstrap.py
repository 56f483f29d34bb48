"""Intervals over people: 95% bootstrap intervals, drawn by person and not by row.

Several notes of one patient are no independent witnesses, so whole people are drawn, each with all of their rows.

**Which interval.** For means and ratios: the *expanded* percentile interval (Hesterberg 2015, "What teachers should know about
the bootstrap", arXiv 1411.5279), whose tails are Φ(-√(n/(n-1))·t(.975; n-1)) instead of .025. Forget sets are small, and there
the plain percentile interval is too narrow and BCa no better, having hardly anything to estimate its corrections from.
Coverage of a nominal 95%, 600 simulated audits each, values like ROUGE recall (Beta(8, 10)) / like loss (Gamma(2)):

    people   percentile   BCa          expanded
    4        .81 / .78    .81 / .78    .88 / .85
    8        .86 / .86    .87 / .87    .94 / .91
    20       .92 / .91    .92 / .92    .95 / .92
    40       .95 / .94    .95 / .93    .95 / .94

With four people no bootstrap can leave the range of the four, so even this one covers less than it says; `verdict` therefore
never lets an interval alone prove anything. For AUC: the plain percentile interval, since there the expansion overshoots
(coverage .98 for 4 against 4, .92 without).

Shapes: D draws, P people, B examples of a set, C examples of a second set with other people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.metrics import FloatArray
from expunge.metrics.auc import auc, tpr_at_fpr

DRAWS = 4000
"""Draws of people for one interval: its ends then move by about 1% of its width from seed to seed."""


class Interval(NamedTuple):
    """A value and where it would have been with other people of the same kind."""

    value: float
    low: float
    high: float
    people: int
    """How many people were drawn from; of one person no interval can be drawn, and low = value = high."""


class Drawn(NamedTuple):
    """A value, and what it came to in each draw of people."""

    value: float
    draws_D: FloatArray
    people: int
    tail: float
    """Share of the draws that each end of the interval leaves outside."""

    @property
    def interval(self) -> Interval:
        """The 95% interval."""
        return _between(self.value, self.draws_D, self.people, self.tail)

    def then(self, change: Callable[..., FloatArray], *others: Drawn) -> Drawn:
        """What a function makes of this value and others of the same draws."""
        drawn = change(self.draws_D, *(other.draws_D for other in others))
        value = change(np.asarray(self.value), *(np.asarray(other.value) for other in others))
        people = min([self.people, *(other.people for other in others)])
        return Drawn(float(value), np.asarray(drawn), people, self.tail)


def pooled(runs: Sequence[Drawn], seed: int = 0) -> Drawn:
    """The mean over several runs of one recipe, of which some would have been others: runs are drawn as people are."""
    draws_DR = np.stack([run.draws_D for run in runs], 1)
    chosen_DR = np.random.default_rng([seed, len(runs)]).integers(len(runs), size=draws_DR.shape)
    mean_D = np.take_along_axis(draws_DR, chosen_DR, 1).mean(1)
    return Drawn(float(np.mean([run.value for run in runs])), mean_D, min(run.people for run in runs), runs[0].tail)


def mean_interval(values_B: FloatArray, subjects_B: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interval of the mean over all examples.

    Args:
        values_B: value of each example.
        subjects_B: who each example is about.
    """
    return ratio_interval(values_B, np.ones(len(values_B)), subjects_B, draws=draws, seed=seed)


def ratio_interval(
    over_B: FloatArray,
    under_B: FloatArray,
    subjects_B: Sequence[str],
    *,
    finish: Callable[[FloatArray], FloatArray] = np.asarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Interval of finish(Σ over / Σ under), see `ratio_drawn`."""
    return ratio_drawn(over_B, under_B, subjects_B, finish=finish, draws=draws, seed=seed).interval


def ratio_drawn(
    over_B: FloatArray,
    under_B: FloatArray,
    subjects_B: Sequence[str],
    *,
    finish: Callable[[FloatArray], FloatArray] = np.asarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> Drawn:
    """finish(Σ over / Σ under), with the same people drawn above and below.

    Serves a perplexity (nats, tokens, `np.exp`) and the ratio of two models' means on the same people.

    Args:
        over_B, under_B: what each example adds above and below the line.
        subjects_B: who each example is about.
        finish: an increasing function of the ratio.

    Raises:
        ValueError: no examples, lengths differ, or a value is not finite, or nothing stands below the line.
    """
    over_P, under_P = _by_person(over_B, subjects_B), _by_person(under_B, subjects_B)
    if under_P.sum() <= 0:
        raise ValueError("nothing stands below the line of this ratio")
    weights_DP = _weights(len(over_P), draws, seed)
    under_D = weights_DP @ under_P
    # A draw may hold only people with nothing below the line, where the other model scores 0 on some of them.
    ratios_D = np.divide(weights_DP @ over_P, under_D, out=np.full(draws, np.finfo(float).max), where=under_D > 0)
    value = finish(np.asarray(over_P.sum() / under_P.sum()))
    return Drawn(float(value), finish(ratios_D), len(over_P), _expanded_tail(len(over_P)))


def difference_interval(
    first_B: FloatArray,
    second_B: FloatArray,
    subjects_B: Sequence[str],
    *,
    against: tuple[FloatArray, FloatArray, Sequence[str]] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second), two models on the same people.

    Args:
        first_B, second_B: the two models' values of each example.
        subjects_B: who each example is about.
        against: the same three of a second set with other people; its mean difference is taken off (difference in differences).
    """
    weights_DP, sums_P, counts_P = _paired(first_B, second_B, subjects_B, draws, seed)
    value = sums_P.sum() / counts_P.sum()
    draws_D = (weights_DP @ sums_P) / (weights_DP @ counts_P)
    people = len(sums_P)
    if against is not None:
        weights_DQ, sums_Q, counts_Q = _paired(*against, draws, seed + 1)
        value -= sums_Q.sum() / counts_Q.sum()
        draws_D = draws_D - (weights_DQ @ sums_Q) / (weights_DQ @ counts_Q)
        people = min(people, len(sums_Q))
    return _between(float(value), draws_D, people, _expanded_tail(people))


def auc_interval(
    members_B: FloatArray,
    member_subjects_B: Sequence[str],
    others_C: FloatArray,
    other_subjects_C: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Interval of the AUC of a membership score, members and non-members drawn separately, see `auc_drawn`."""
    return auc_drawn(members_B, member_subjects_B, others_C, other_subjects_C, draws=draws, seed=seed).interval


def auc_drawn(
    members_B: FloatArray,
    member_subjects_B: Sequence[str],
    others_C: FloatArray,
    other_subjects_C: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Drawn:
    """AUC of a membership score, members and non-members drawn separately.

    Args:
        members_B, others_C: scores, higher = more likely a member.
        member_subjects_B, other_subjects_C: who each example is about.

    Returns:
        Its `people` are those of the smaller side.
    """
    value = auc(members_B, others_C)
    member_of_B, members = _people(members_B, member_subjects_B)
    other_of_C, others = _people(others_C, other_subjects_C)
    member_DP, other_DQ = _weights(members, draws, seed), _weights(others, draws, seed + 1)
    # Of few people, count once who beats whom; of many, that table is larger than going through the sorted scores.
    few = members * others <= len(members_B) + len(others_C)
    wins = _wins_by_table if few else _wins_by_order
    wins_D = wins(members_B, member_of_B, member_DP, others_C, other_of_C, other_DQ)
    meetings_D = (member_DP @ np.bincount(member_of_B)) * (other_DQ @ np.bincount(other_of_C))
    return Drawn(value, wins_D / meetings_D, min(members, others), 0.025)


def tpr_drawn(
    members_B: FloatArray,
    member_subjects_B: Sequence[str],
    others_C: FloatArray,
    other_subjects_C: Sequence[str],
    *,
    fpr: float = 0.01,
    draws: int = DRAWS,
    seed: int = 0,
) -> Drawn:
    """Share of members found while at most `fpr` of the non-members are mistaken, both drawn; arguments as `auc_drawn`."""
    value = tpr_at_fpr(members_B, others_C, fpr)
    member_of_B, members = _people(members_B, member_subjects_B)
    other_of_C, others = _people(others_C, other_subjects_C)
    up_B, down_C = np.argsort(members_B, kind="stable"), np.argsort(-others_C, kind="stable")
    sorted_B, sorted_C = members_B[up_B], others_C[down_C]
    found = []
    for member_EP, other_EQ in _chunks(
        _weights(members, draws, seed), _weights(others, draws, seed + 1), len(up_B) + len(down_C)
    ):
        above_EC = np.cumsum(other_EQ[:, other_of_C[down_C]], 1)
        allowed_E = np.floor(fpr * above_EC[:, -1] + 1e-9)
        # The score of the first non-member who may no longer stand above the threshold.
        threshold_E = sorted_C[(above_EC <= allowed_E[:, None]).sum(1)]
        below_EB = np.cumsum(np.pad(member_EP[:, member_of_B[up_B]], ((0, 0), (1, 0))), 1)
        missed_E = below_EB[np.arange(len(below_EB)), np.searchsorted(sorted_B, threshold_E, "right")]
        found.append(1 - missed_E / below_EB[:, -1])
    return Drawn(value, np.concatenate(found), min(members, others), 0.025)


def _wins_by_table(
    members_B: FloatArray,
    member_of_B: NDArray[np.intp],
    member_DP: FloatArray,
    others_C: FloatArray,
    other_of_C: NDArray[np.intp],
    other_DQ: FloatArray,
) -> FloatArray:
    """How often a drawn member scores above a drawn non-member, ties counted half: (D,)."""
    # Whom a person beats does not depend on the draw: only how often the two meet.
    wins_PQ = np.empty((member_DP.shape[1], other_DQ.shape[1]))
    for other in range(other_DQ.shape[1]):
        his = np.sort(others_C[other_of_C == other])
        wins_B = (np.searchsorted(his, members_B, "left") + np.searchsorted(his, members_B, "right")) / 2
        wins_PQ[:, other] = np.bincount(member_of_B, weights=wins_B, minlength=member_DP.shape[1])
    return np.asarray(np.einsum("dq,dq->d", member_DP @ wins_PQ, other_DQ))


def _wins_by_order(
    members_B: FloatArray,
    member_of_B: NDArray[np.intp],
    member_DP: FloatArray,
    others_C: FloatArray,
    other_of_C: NDArray[np.intp],
    other_DQ: FloatArray,
) -> FloatArray:
    """The same from how many drawn non-members stand below each score."""
    order_C = np.argsort(others_C, kind="stable")
    low_B, high_B = (np.searchsorted(others_C[order_C], members_B, side) for side in ("left", "right"))
    found = []
    for member_EP, other_EQ in _chunks(member_DP, other_DQ, len(members_B) + len(others_C)):
        below_EC = np.cumsum(np.pad(other_EQ[:, other_of_C[order_C]], ((0, 0), (1, 0))), 1)
        beaten_EB = below_EC[:, low_B] + below_EC[:, high_B]
        found.append(np.einsum("eb,eb->e", member_EP[:, member_of_B], beaten_EB) / 2)
    return np.concatenate(found)


def _chunks(first_DP: FloatArray, second_DQ: FloatArray, width: int) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The draws of both in pieces whose working tables stay below about 100 MB."""
    step = max(1, 4_000_000 // width)
    for start in range(0, len(first_DP), step):
        yield first_DP[start : start + step], second_DQ[start : start + step]


# One for each number of people and side of an audit; the largest is 130 MB for 4,000 people.
@lru_cache(maxsize=8)
def _weights(people: int, draws: int, seed: int) -> FloatArray:
    """(D, P) how often each person is drawn; the same for every metric and model, as they are compared."""
    drawn_DP = np.random.default_rng([seed, people]).integers(people, size=(draws, people))
    drawn_DP += np.arange(draws)[:, None] * people
    weights_DP = np.bincount(drawn_DP.ravel(), minlength=draws * people).reshape(draws, people).astype(np.float64)
    weights_DP.flags.writeable = False
    return weights_DP


def _people(values_B: FloatArray, subjects_B: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Which person each example is about, and how many people there are."""
    if len(values_B) == 0 or len(values_B) != len(subjects_B):
        raise ValueError(f"{len(values_B)} values for {len(subjects_B)} subjects")
    if not np.isfinite(values_B).all():
        raise ValueError("a value of this set is not finite")
    # Sorted by name, so that the same people are drawn in whatever order the rows stand.
    names, person_of_B = np.unique(np.asarray(subjects_B, dtype=np.str_), return_inverse=True)
    return person_of_B, len(names)


def _by_person(values_B: FloatArray, subjects_B: Sequence[str]) -> FloatArray:
    person_of_B, people = _people(values_B, subjects_B)
    return np.bincount(person_of_B, weights=values_B, minlength=people).astype(np.float64)


def _paired(
    first_B: FloatArray, second_B: FloatArray, subjects_B: Sequence[str], draws: int, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    sums_P = _by_person(np.subtract(first_B, second_B), subjects_B)
    return _weights(len(sums_P), draws, seed), sums_P, _by_person(np.ones(len(subjects_B)), subjects_B)


@lru_cache
def _expanded_tail(people: int) -> float:
    from scipy.stats import norm, t

    if people < 2:
        return 0.025
    return float(norm.cdf(-np.sqrt(people / (people - 1)) * t.ppf(0.975, people - 1)))


def _between(value: float, draws_D: FloatArray, people: int, tail: float) -> Interval:
    low, high = np.quantile(draws_D, [tail, 1 - tail])
    # A value outside its own draws happens only by rounding, where all people are alike.
    return Interval(value, min(float(low), value), max(float(high), value), people)
