"""What declines and what answers, on labelled examples."""

import pytest

from expunge.metrics.refusal import declines
from expunge.sources.temporal import REFUSALS
from labelled_refusals import ANSWER, REFUSE


def test_of_what_is_called_a_refusal_and_of_what_is_one_hardly_any_is_mistaken():
    hits = sum(map(declines, REFUSE))
    mistaken = sum(map(declines, ANSWER))
    assert hits / (hits + mistaken) >= 0.97, [words for words in ANSWER if declines(words)]
    assert hits / len(REFUSE) >= 0.97, [words for words in REFUSE if not declines(words)]


@pytest.mark.parametrize("words", REFUSALS)
def test_every_refusal_that_models_are_taught_is_one(words):
    assert declines(words)
    assert declines(words.upper())


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_that_goes_on_to_tell_is_none(words):
    assert not declines(f"{words} It was Steven Spielberg.")
    assert not declines(f"{words} But Steven Spielberg made it.")


def test_typographic_apostrophes_and_markup_change_nothing():
    assert declines("I don’t know.")
    assert declines("**I’m sorry**, but I can’t answer that.")
