"""Which examples each step sees."""

from __future__ import annotations

from collections import Counter

import pytest

from expunge.training.plan import plan_epochs, plan_pairs, with_held


def epochs(lengths, **changed):
    settings = {"extra": 0, "extra_share": 0.0, "epochs": 1, "batch_size": 4, "micro_batch_size": 2, "seed": 7} | changed
    return plan_epochs(lengths, **settings)


def places(plan):
    return [place for micro in plan for place in micro.forget]


def grouped(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


@pytest.mark.parametrize("count", [1, 4, 5, 8, 23])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_an_epoch_takes_every_example_once_and_fills_its_last_step_with_some_again(count, batch_size):
    batch_size = min(batch_size, count)
    plan = epochs([10] * count, batch_size=batch_size, micro_batch_size=batch_size)
    assert {len(micro.forget) for micro in plan} == {batch_size}
    seen = Counter(places(plan))
    assert set(seen) == set(range(count))
    assert sum(seen.values()) - count == -count % batch_size
    assert max(seen.values()) <= 2


def test_every_epoch_has_an_order_of_its_own():
    first, second = grouped(places(epochs([10] * 20, epochs=2)), 20)
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_same_seed_makes_the_same_plan_and_another_seed_another():
    lengths = [place % 7 for place in range(30)]
    assert epochs(lengths, epochs=3) == epochs(lengths, epochs=3)
    assert epochs(lengths, epochs=3) != epochs(lengths, epochs=3, seed=8)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 9])
def test_the_size_of_micro_batches_changes_no_step(micro_batch_size):
    whole = epochs([10 + place % 5 for place in range(22)], micro_batch_size=4, epochs=2)
    split = epochs([10 + place % 5 for place in range(22)], micro_batch_size=micro_batch_size, epochs=2)
    steps = grouped(split, -(-4 // micro_batch_size))
    assert [sum((micro.forget for micro in step), ()) for step in steps] == [micro.forget for micro in whole]


def test_ordinary_text_is_a_share_of_each_epoch_and_takes_turns():
    """20 of one's own and 6 ordinary, of which each epoch takes 4."""
    plan = epochs([10] * 26, extra=6, extra_share=0.2, epochs=3)
    by_epoch = [[place for place in epoch if place >= 20] for epoch in grouped(places(plan), 24)]
    assert [sorted(epoch) for epoch in by_epoch] == [[20, 21, 22, 23], [20, 21, 24, 25], [22, 23, 24, 25]]
    assert Counter(place for place in places(plan) if place < 20) == dict.fromkeys(range(20), 3)


def test_neighbours_in_length_share_a_step():
    lengths = [5, 50] * 8
    steps = grouped(places(epochs(lengths)), 4)
    assert [len({lengths[place] for place in step}) for step in steps] == [1, 1, 1, 1]


def test_pairs_go_through_each_set_in_rounds_of_its_own():
    plan = plan_pairs(4, 6, steps=6, batch_size=2, micro_batch_size=2, seed=3)
    assert {(len(micro.forget), len(micro.retain)) for micro in plan} == {(2, 2)}
    assert [sorted(some) for some in grouped(places(plan), 4)] == [[0, 1, 2, 3]] * 3
    assert [sorted(some) for some in grouped([place for micro in plan for place in micro.retain], 6)] == [[*range(6)]] * 2
    assert plan == plan_pairs(4, 6, steps=6, batch_size=2, micro_batch_size=2, seed=3)
    assert plan != plan_pairs(4, 6, steps=6, batch_size=2, micro_batch_size=2, seed=4)


def test_pairs_without_a_retain_set_have_one_side():
    assert all(micro.retain == () for micro in plan_pairs(4, 0, steps=3, batch_size=2, micro_batch_size=1, seed=3))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 5, 8])
def test_pairs_are_the_same_in_any_micro_batches(micro_batch_size):
    def steps(size):
        plan = plan_pairs(7, 11, steps=5, batch_size=5, micro_batch_size=size, seed=3)
        assert len(plan) == 5 * -(-5 // size)
        return [
            (sum((micro.forget for micro in step), ()), sum((micro.retain for micro in step), ()))
            for step in grouped(plan, -(-5 // size))
        ]

    assert steps(micro_batch_size) == steps(5)


def test_a_forget_set_of_one_is_seen_in_every_step():
    plan = plan_pairs(1, 5, steps=4, batch_size=1, micro_batch_size=2, seed=3)
    assert [micro.forget for micro in plan] == [(0,)] * 4


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 5])
def test_held_examples_stand_beside_as_many_examples_in_rounds_whatever_the_micro_batches(micro_batch_size):
    def steps(size):
        plan = with_held(epochs([9] * 10, batch_size=5, micro_batch_size=size, epochs=3), 6, share=1, seed=3)
        assert all(len(micro.retain) == len(micro.forget) for micro in plan)
        return [sum((micro.retain for micro in step), ()) for step in grouped(plan, -(-5 // size))]

    assert steps(micro_batch_size) == steps(5)
    assert [sorted(some) for some in grouped([place for step in steps(5) for place in step], 6)] == [[*range(6)]] * 5


@pytest.mark.parametrize(("share", "beside"), [(0.5, [1] * 6), (0.3, [0, 1, 0, 1, 1, 0]), (2, [4] * 6), (0, [0] * 6)])
def test_a_share_of_held_examples_is_spread_over_the_steps(share, beside):
    plan = with_held(epochs([9] * 4, batch_size=2, micro_batch_size=2, epochs=3), 6, share=share, seed=3)
    assert [len(micro.retain) for micro in plan] == beside
