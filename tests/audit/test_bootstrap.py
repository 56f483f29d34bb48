"""Intervals against scipy's, against simulation, and against what they must not do."""

from __future__ import annotations

import time

import numpy as np
import pytest

from expunge.audit import bootstrap
from expunge.audit.bootstrap import Interval, auc_interval, difference_interval, mean_interval, ratio_interval
from expunge.metrics.auc import auc, tpr_at_fpr


def each(count: int, name: str = "p") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


def test_with_many_people_the_interval_of_a_mean_is_the_percentile_interval_of_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).gamma(2, 1, 300)
    peer = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = mean_interval(values, each(300), draws=20_000)
    assert ours.value == pytest.approx(values.mean())
    assert ours[1:3] == pytest.approx((peer.low, peer.high), abs=0.015 * (peer.high - peer.low))


def test_with_few_people_the_interval_is_that_of_scipy_at_the_expanded_level() -> None:
    from scipy.stats import bootstrap, norm, t

    values = np.random.default_rng(0).random(8)
    tail = norm.cdf(-np.sqrt(8 / 7) * t.ppf(0.975, 7))
    peer = bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", confidence_level=1 - 2 * tail, rng=np.random.default_rng(1)
    ).confidence_interval
    assert mean_interval(values, each(8), draws=50_000)[1:3] == pytest.approx((peer.low, peer.high), abs=0.015)


def test_the_interval_of_an_auc_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    first, second = rng.normal(0.4, 1, 25).round(1), rng.normal(0, 1, 40).round(1)
    peer = bootstrap(
        (first, second),
        lambda a, b: auc(a, b),
        n_resamples=5000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = auc_interval(first, each(25), second, each(40, "q"), draws=5000)
    assert ours.value == pytest.approx(auc(first, second))
    assert ours[1:] == pytest.approx((peer.low, peer.high, 25), abs=0.01)


def test_drawing_people_with_many_rows_equals_a_plain_loop_over_people() -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(rng.normal(), 0.1, rng.integers(1, 6)) for name in each(6)}
    others = {name: rng.normal(rng.normal(), 0.1, rng.integers(1, 6)) for name in each(9, "q")}

    def flat(of: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
        return np.concatenate(list(of.values())), [name for name, values in of.items() for _ in values]

    def drawn(of: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([of[name] for name in rng.choice(list(of), len(of))])

    aucs = [auc(drawn(rows), drawn(others)) for _ in range(4000)]
    ours = auc_interval(*flat(rows), *flat(others), draws=20_000)
    assert ours[1:3] == pytest.approx(np.quantile(aucs, [0.025, 0.975]), abs=0.03)
    means = [drawn(rows).mean() for _ in range(4000)]
    spread = np.quantile(means, [0.001, 0.999])  # about the tail for six people
    found = mean_interval(*flat(rows), draws=20_000)
    assert found[1:3] == pytest.approx(spread, abs=0.25 * (spread[1] - spread[0]))


def test_drawing_by_person_is_wider_than_by_row_where_a_person_has_many_alike_rows() -> None:
    own = np.random.default_rng(0).normal(0, 1, 10)
    values, subjects = np.repeat(own, 20), np.repeat(each(10), 20)
    by_person, by_row = mean_interval(values, subjects), mean_interval(values, each(200))
    assert by_person.people == 10
    assert by_person.high - by_person.low > 3 * (by_row.high - by_row.low)
    assert by_person[:3] == pytest.approx(mean_interval(own, each(10))[:3])
    others = np.random.default_rng(1).normal(0, 1, 200)
    by_person, by_row = (auc_interval(values, names, others, each(200, "q")) for names in (subjects, each(200)))
    assert by_person.high - by_person.low > 2 * (by_row.high - by_row.low)


@pytest.mark.parametrize(("people", "least"), [(4, 0.82), (8, 0.89), (20, 0.92), (40, 0.925)])
def test_intervals_of_means_hold_the_truth_about_as_often_as_they_say(people: int, least: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        found = mean_interval(rng.beta(8, 10, people), each(people), draws=1000)
        held += found.low <= 8 / 18 <= found.high
    assert least <= held / 500 <= 0.98


@pytest.mark.parametrize("members", [4, 10, 25])
def test_intervals_of_aucs_hold_the_truth_about_as_often_as_they_say(members: int) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        found = auc_interval(rng.normal(size=members), each(members), rng.normal(size=members), each(members, "q"), draws=1000)
        held += found.low <= 0.5 <= found.high
    assert 0.88 <= held / 300 <= 0.99


def test_a_ratio_on_the_same_people_is_sharper_than_its_parts() -> None:
    target = np.random.default_rng(0).uniform(0.2, 1, 30)
    kept = ratio_interval(target * 0.97, target, each(30))
    assert kept[:3] == pytest.approx((0.97, 0.97, 0.97))


def test_a_perplexity_is_exp_of_all_nats_over_all_tokens() -> None:
    nats, tokens = np.array([10.0, 300.0]), np.array([10.0, 100.0])
    found = ratio_interval(nats, tokens, each(2), finish=np.exp)
    assert found.value == pytest.approx(np.exp(310 / 110))
    assert found[1:3] == pytest.approx((np.exp(1), np.exp(3)))


def test_a_ratio_over_people_of_whom_some_have_nothing_below_the_line_has_no_nan() -> None:
    found = ratio_interval(np.ones(4), np.array([1.0, 0, 0, 0]), each(4))
    assert found.value == 4
    assert not np.isnan(found[:3]).any()
    with pytest.raises(ValueError, match="below the line"):
        ratio_interval(np.ones(4), np.zeros(4), each(4))


def test_a_difference_of_two_models_takes_off_what_changed_for_the_other_set() -> None:
    hard, others = np.random.default_rng(0).normal(0, 1, (2, 12))
    found = difference_interval(hard + 0.5, hard, each(12), against=(others + 0.2, others, each(12, "q")))
    assert found[:3] == pytest.approx((0.3, 0.3, 0.3))
    assert difference_interval(hard + 0.5, hard, each(12)).value == pytest.approx(0.5)


def test_of_one_person_there_is_no_interval_and_the_ends_say_so() -> None:
    assert mean_interval(np.array([0.2, 0.4]), ["p", "p"]) == pytest.approx(Interval(0.3, 0.3, 0.3, 1))


def test_the_same_seed_gives_the_same_interval_in_whatever_order_the_rows_stand() -> None:
    values = np.random.default_rng(0).random(30)
    names = each(10) * 3
    order = np.random.default_rng(1).permutation(30)
    mixed = mean_interval(values[order], [names[i] for i in order])
    assert mixed == pytest.approx(mean_interval(values, names), abs=1e-12)
    assert mean_interval(values, names, seed=1) != mean_interval(values, names)
    assert auc_interval(values[order], [names[i] for i in order], values, each(30, "q")) == pytest.approx(
        auc_interval(values, names, values, each(30, "q")), abs=1e-12
    )


def test_four_thousand_draws_of_forty_people_take_well_under_a_tenth_of_a_second() -> None:
    values, names = np.random.default_rng(0).random(80), each(40) * 2
    mean_interval(values, names)  # imports
    start = time.process_time()
    mean_interval(values, names, draws=4000, seed=7)
    auc_interval(values, names, values[::-1], each(40, "q") * 2, draws=4000, seed=7)
    assert time.process_time() - start < 0.1


def test_values_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values for 3 subjects"):
        mean_interval(np.ones(2), each(3))
    with pytest.raises(ValueError, match="finite"):
        mean_interval(np.array([1, np.nan]), each(2))
    with pytest.raises(ValueError, match="0 values"):
        mean_interval(np.array([]), [])


def test_the_table_of_who_beats_whom_and_the_sorted_scores_give_the_same_draws() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 30).round(1), rng.normal(0, 1, 25).round(1)  # with ties
    member_of, other_of = np.arange(30) // 3, np.arange(25) // 5
    given = (members, member_of, bootstrap._weights(10, 500, 0), others, other_of, bootstrap._weights(5, 500, 1))
    assert bootstrap._wins_by_order(*given) == pytest.approx(bootstrap._wins_by_table(*given))


def test_a_draw_of_the_tpr_is_that_of_the_drawn_scores_written_out() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 12).round(1), rng.normal(0, 1, 20).round(1)
    names = [f"m{i // 2}" for i in range(12)], [f"o{i // 2}" for i in range(20)]
    drawn = bootstrap.tpr_drawn(members, names[0], others, names[1], fpr=0.1, draws=50, seed=3)
    assert drawn.value == tpr_at_fpr(members, others, 0.1)
    member_DP, other_DQ = bootstrap._weights(6, 50, 3), bootstrap._weights(10, 50, 4)
    places = np.unique(names[0], return_inverse=True)[1], np.unique(names[1], return_inverse=True)[1]
    for draw in range(50):
        first = np.repeat(members, member_DP[draw][places[0]].astype(int))
        second = np.repeat(others, other_DQ[draw][places[1]].astype(int))
        assert drawn.draws_D[draw] == pytest.approx(tpr_at_fpr(first, second, 0.1))


def test_runs_that_differ_widen_the_interval_of_their_mean() -> None:
    people = [f"p{i}" for i in range(30)]
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 30)
    alike, apart = (
        bootstrap.pooled([bootstrap.ratio_drawn(values + by, np.ones(30), people) for by in shifts]).interval
        for shifts in ((0, 0, 0), (-2, 0, 2))
    )
    single = mean_interval(values, people)
    assert alike.value == pytest.approx(single.value)
    assert apart.value == pytest.approx(single.value)
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)
