"""Batches by length, and their tensors."""

from __future__ import annotations

import random

import pytest

from expunge.batching import Tokenized, batches_by_length, collate


@pytest.mark.parametrize("most_tokens", [1, 7, 40, 200, 10_000])
def test_every_example_is_in_one_batch_and_no_batch_is_larger_than_allowed(most_tokens):
    chance = random.Random(most_tokens)
    lengths = [chance.randint(1, 60) for _ in range(101)]
    batches = batches_by_length(lengths, most_tokens=most_tokens)
    assert sorted(place for batch in batches for place in batch.places) == list(range(101))
    for batch in batches:
        assert batch.tokens == len(batch.places) * max(lengths[place] for place in batch.places)
        assert batch.tokens <= most_tokens or len(batch.places) == 1


def test_the_longest_come_first_and_neighbours_in_length_go_together():
    batches = batches_by_length([3, 9, 3, 8, 1], most_tokens=18)
    assert [batch.places for batch in batches] == [(1, 3), (0, 2, 4)]


def test_a_batch_is_full_when_one_more_would_not_fit():
    assert [len(batch.places) for batch in batches_by_length([4] * 7, most_tokens=12)] == [3, 3, 1]


def test_no_example_makes_no_batch():
    assert batches_by_length([], most_tokens=10) == []


def test_shorter_examples_are_padded_on_the_right_and_padding_is_neither_seen_nor_learnt():
    batch = collate([Tokenized("a", (5, 6, 7, 8), 2, False), Tokenized("b", (9, 2), 1, False)], pad=2)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7, 8], [9, 2, 2, 2]]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    # The end token is the padding token here: the real one is learnt, the padding is not.
    assert batch.labels_BT.tolist() == [[-100, -100, 7, 8], [-100, 2, -100, -100]]
