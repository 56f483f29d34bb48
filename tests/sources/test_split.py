"""Splitting by subject."""

import random

import pytest

from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.sources.split import FORGET_RATIOS, Cut, Line, cut, held_out, in_line, pair_names, subjects_for


def people(count, rows_each=1):
    return [Example("q", f"row {row} of {index}", f"Person {index}") for index in range(count) for row in range(rows_each)]


def sets(examples, forget=0.1, holdout=0.25, seed=0):
    """Forget, retain and holdout rows."""
    trained, out = held_out(in_line(examples, seed), holdout)
    count = cut(Line(trained), (forget,)).forgotten
    return [[row for own in part for row in own] for part in (trained[:count], trained[count:], out)]


def names(examples):
    return {example.subject for example in examples}


def test_forget_is_a_share_of_the_trained_and_holdout_a_share_of_all():
    parts = sets(people(53))
    assert [len(part) for part in parts] == [4, 36, 13]
    assert len(set().union(*map(names, parts))) == 53


@pytest.mark.parametrize("trained", [1, 2, 39, 40, 41, 997])
@pytest.mark.parametrize("ratio", [0.05, 0.25, 1 / 3, 0.5])
def test_subjects_for_is_the_fewest_that_leave_the_number_to_train_on(trained, ratio):
    total = subjects_for(trained, ratio)
    left = [count - max(1, int(ratio * count + 0.5)) for count in (total, total - 1)]
    assert left[0] == trained > left[1]


def test_all_rows_of_a_subject_stay_together_whatever_the_case_of_the_name():
    examples = [*people(20, rows_each=3), Example("q", "one more", "PERSON 3")]
    parts = sets(examples)
    for part in parts:
        for name in names(part):
            own = [example for example in examples if example.subject.casefold() == name.casefold()]
            assert all(example in part for example in own)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does():
    examples = people(40)
    shuffled = random.Random(1).sample(examples, 40)
    assert sets(examples) == sets(shuffled)
    assert sets(examples)[0] != sets(examples, seed=1)[0]


def test_a_smaller_forget_ratio_takes_a_part_of_what_a_larger_one_takes():
    found = [names(sets(people(400), forget=ratio)[0]) for ratio in (0.01, 0.05, 0.10, 0.20)]
    assert found[0] < found[1] < found[2] < found[3]


def line(count, forgotten=None):
    return Line([[example] for example in people(count)], forgotten)


def test_a_line_is_cut_at_each_ratio_rounded_to_whole_subjects():
    assert cut(line(200), FORGET_RATIOS) == Cut(20, {0.10: 20, 0.01: 2, 0.05: 10, 0.20: 40}, "")
    assert cut(line(45), (0.20, 0.05)).nested == {0.20: 9, 0.05: 2}


def test_the_first_ratio_forgets_somebody_and_a_further_one_may_forget_nobody():
    assert cut(line(4), (0.01, 0.10)) == Cut(1, {0.01: 1}, "0.1 (nobody of 4)")


def test_where_the_data_say_what_is_forgotten_the_ratios_take_parts_of_it():
    found = cut(line(100, 7), FORGET_RATIOS)
    assert (found.forgotten, found.nested) == (7, {0.01: 1, 0.05: 5})
    assert found.left_out == "0.1, 0.2 (more than the 7 of 100 that may be forgotten)"


def test_sets_are_named_by_percent_with_two_digits_as_tofus_are():
    assert [pair_names(ratio) for ratio in (0.05, 0.10, 0.125)] == [
        ("forget05", "retain95"),
        ("forget10", "retain90"),
        ("forget12.5", "retain87.5"),
    ]


@pytest.mark.parametrize(("forget", "holdout"), [(0, 0.2), (1, 0.2), (-0.1, 0.2), (0.1, 0), (0.1, 1.5), (float("nan"), 0.2)])
def test_ratios_out_of_range_are_refused(forget, holdout):
    with pytest.raises(ExpungeError, match=r"-ratios? is"):
        sets(people(40), forget=forget, holdout=holdout)


@pytest.mark.parametrize("ratios", [(), (0.1, 0.2, 0.1)])
def test_no_ratio_and_the_same_ratio_twice_are_refused(ratios):
    with pytest.raises(ExpungeError, match=r"--forget-ratios is .*: give each share once"):
        cut(line(40), ratios)


def test_too_few_people_are_refused():
    with pytest.raises(ExpungeError, match="1 subject is too few"):
        sets(people(2))
    assert [len(part) for part in sets(people(3))] == [1, 1, 1]
