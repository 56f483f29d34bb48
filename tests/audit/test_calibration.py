"""The arithmetic of the meta-evaluation, by hand."""

from __future__ import annotations

import pytest

from expunge.audit.calibration import (
    Pool,
    Reliability,
    Tried,
    as_rows,
    best_threshold,
    calibrated,
    faithfulness,
    knowledge,
    quantisation_robustness,
    read_table,
    relearning_robustness,
    reliability,
)
from expunge.audit.results import Score
from expunge.metrics import METRICS


def score(value: float, *, better="lower", span=(0.0, 1.0)) -> Score:
    return Score("some", "unlearned", "forget", value, value, value, 4, better, span)


def scores(*values: float, **more) -> list[Score]:
    return [score(value, **more) for value in values]


def tried(unlearned: float, relearned: float, rounded: float, *, ends=(0.1, 0.2), **more) -> Tried:
    return Tried(*scores(unlearned, relearned, rounded, *ends, **more))


def test_faithfulness_counts_how_often_one_that_knows_stands_above_one_that_does_not():
    # 0.9 beats both, 0.3 beats one and ties with the other: 3.5 of 4.
    assert faithfulness([0.9, 0.3], [0.3, 0.1]) == pytest.approx(3.5 / 4)
    assert faithfulness([0.9, 0.8], [0.3, 0.1]) == 1
    assert faithfulness([0.1, 0.3], [0.8, 0.9]) == 0


def test_what_is_better_high_on_the_forget_set_counts_as_less_known_the_higher_it_is():
    assert knowledge(score(0.3)) == 0.3
    assert knowledge(score(0.3, better="middle")) == 0.3
    assert knowledge(score(0.3, better="higher")) == -0.3
    assert knowledge(score(0.3, better="middle"), inverted=True) == -0.3


def test_the_threshold_splits_as_many_as_can_be_split():
    assert best_threshold([0.6, 0.8], [0.1, 0.2]) == pytest.approx(0.4)
    # Where no cut is right about all, the one that is right about most: 0.1 and 0.2 below it, two of three above.
    assert best_threshold([0.05, 0.6, 0.8], [0.1, 0.2]) == pytest.approx(0.4)
    # A metric that tells nothing takes nobody for knowing.
    assert best_threshold([0.5], [0.5]) > 0.5


def test_relearning_is_held_against_what_one_gains_that_never_knew():
    assert relearning_robustness(0.1, 0.5, 0.1, 0.3) == pytest.approx(0.2 / 0.4)
    assert relearning_robustness(0.1, 0.2, 0.1, 0.5) == 1
    assert relearning_robustness(0.3, 0.2, 0.1, 0.1) == 1
    assert relearning_robustness(0.1, 0.5, 0.3, 0.2) == 0


def test_quantisation_that_brings_something_back_lowers_the_robustness():
    assert quantisation_robustness(0.2, 0.8) == pytest.approx(0.25)
    assert quantisation_robustness(0.2, 0.1) == 1
    assert quantisation_robustness(0.0, 0.0) == 1
    assert quantisation_robustness(0.0, 0.4) == 0
    with pytest.raises(ValueError, match="below 0"):
        quantisation_robustness(-1.0, 0.4)


def test_robustness_is_asked_only_of_models_that_the_metric_takes_for_forgetful():
    pool = Pool(scores(0.8, 0.9), scores(0.1, 0.2))
    found = reliability("some", pool, [tried(0.2, 0.4, 0.4), tried(0.7, 0.9, 0.9)])
    assert (found.auc, found.forgotten, found.tried) == (1, 1, 2)
    assert found.threshold == pytest.approx(0.5)
    assert found.relearning == pytest.approx(0.5)
    assert found.quantisation == pytest.approx(0.5)
    nobody = reliability("some", pool, [tried(0.7, 0.9, 0.9)])
    assert (nobody.relearning, nobody.quantisation) == (None, None)


def test_an_inverted_metric_is_reckoned_as_what_is_known():
    # Of a value up to 1, what is known is the rest: 0.2 unlearned, 0.4 rounded.
    found = reliability(
        "some",
        Pool(scores(0.1, 0.2, better="higher"), scores(0.8, 0.9, better="higher")),
        [tried(0.8, 0.8, 0.6, ends=(0.9, 0.9), better="higher")],
    )
    assert found.auc == 1
    assert found.threshold == pytest.approx(0.5)
    assert found.quantisation == pytest.approx(0.2 / 0.4)


def test_a_perplexity_that_halves_has_brought_half_back_and_a_value_below_zero_has_no_ratio():
    open_ended = {"better": "higher", "span": (1.0, None)}
    pool = Pool(scores(2.0, 3.0, **open_ended), scores(50.0, 60.0, **open_ended))
    assert reliability("some", pool, [tried(40.0, 40.0, 20.0, ends=(50, 50), **open_ended)]).quantisation == pytest.approx(0.5)
    signed = {"better": "middle", "span": (-100.0, None)}
    pool = Pool(scores(20.0, 30.0, **signed), scores(-5.0, -9.0, **signed))
    found = reliability("some", pool, [tried(-4.0, -4.0, -3.0, ends=(0, 0), **signed)])
    assert (found.forgotten, found.quantisation) == (1, None)


def test_a_metric_that_is_best_in_the_middle_tells_as_well_upside_down():
    middle = {"better": "middle", "span": (0.0, None)}
    low, high = scores(0.1, 0.2, **middle), scores(2.0, 3.0, **middle)
    around = [tried(4.0, 1.0, 2.0, ends=(3.0, 2.0), **middle)]
    found = reliability("some", Pool(low, high), around)
    assert (found.auc, found.threshold, found.forgotten) == (1.0, pytest.approx(1.1), 1)
    # From 4 down to 1 the unlearned model gained 3, the retrained one 1; rounding halved it.
    assert (found.relearning, found.quantisation) == (pytest.approx(1 / 3), pytest.approx(0.5))
    # What says itself which way is better is not turned round.
    lower = {"better": "lower", "span": (0.0, None)}
    assert reliability("some", Pool(scores(0.1, 0.2, **lower), scores(2.0, 3.0, **lower)), []).auc == 0.0


def test_a_table_that_was_written_is_read_back_with_the_most_faithful_first():
    rows = [Reliability("dull", 0.5, 3, 3, 0.1, None, None, 0, 2), Reliability("sharp", 0.95, 3, 3, 0.1, 0.5, 1.0, 2, 2)]
    import json

    found = read_table("\n".join(json.dumps(row) for row in as_rows(rows)))
    assert found == [rows[1], rows[0]]
    assert [row.trusted for row in found] == [True, False]


def test_a_table_that_ships_speaks_of_metrics_that_there_are_and_trusts_the_faithful_ones():
    names = [row.metric for row in calibrated()]
    assert len(names) == len(set(names))
    assert set(names) <= {*METRICS}
    # Without these two nothing could pass.
    assert {row.metric for row in calibrated() if row.trusted} >= {"exact-memorisation", "extraction-strength"}
