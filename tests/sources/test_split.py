"""Splitting by subject."""

import random

import pytest

from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.sources.split import split_by_subject, subjects_for


def people(count, rows_each=1):
    return [Example("q", f"row {row} of {index}", f"Person {index}") for index in range(count) for row in range(rows_each)]


def split(examples, forget=0.1, holdout=0.25, seed=0):
    return split_by_subject(examples, forget_ratio=forget, holdout_ratio=holdout, seed=seed)


def names(examples):
    return {example.subject for example in examples}


def test_forget_is_a_share_of_the_trained_and_holdout_a_share_of_all():
    parts = split(people(53))
    assert [len(part) for part in parts] == [4, 36, 13]
    assert len(names([*parts.forget, *parts.retain, *parts.holdout])) == 53


@pytest.mark.parametrize("trained", [1, 2, 39, 40, 41, 997])
@pytest.mark.parametrize("ratio", [0.05, 0.25, 1 / 3, 0.5])
def test_subjects_for_is_the_fewest_that_leave_the_number_to_train_on(trained, ratio):
    total = subjects_for(trained, ratio)
    left = [count - max(1, int(ratio * count + 0.5)) for count in (total, total - 1)]
    assert left[0] == trained > left[1]


def test_all_rows_of_a_subject_stay_together_whatever_the_case_of_the_name():
    examples = [*people(20, rows_each=3), Example("q", "one more", "PERSON 3")]
    parts = split(examples)
    for part in parts:
        for name in names(part):
            own = [example for example in examples if example.subject.casefold() == name.casefold()]
            assert all(example in part for example in own)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does():
    examples = people(40)
    shuffled = random.Random(1).sample(examples, 40)
    assert split(examples) == split(shuffled)
    assert split(examples).forget != split(examples, seed=1).forget


def test_a_smaller_forget_ratio_takes_a_part_of_what_a_larger_one_takes():
    sets = [names(split(people(400), forget=ratio).forget) for ratio in (0.01, 0.05, 0.10, 0.20)]
    assert sets[0] < sets[1] < sets[2] < sets[3]


@pytest.mark.parametrize(("forget", "holdout"), [(0, 0.2), (1, 0.2), (-0.1, 0.2), (0.1, 0), (0.1, 1.5), (float("nan"), 0.2)])
def test_ratios_out_of_range_are_refused(forget, holdout):
    with pytest.raises(ExpungeError, match="ratio is"):
        split(people(40), forget=forget, holdout=holdout)


def test_too_few_people_are_refused():
    with pytest.raises(ExpungeError, match="2 subjects are too few"):
        split(people(2))
    assert [len(part) for part in split(people(3))] == [1, 1, 1]
