"""Questions that hold a model to what it says by itself."""

from __future__ import annotations

import re

import pytest

from expunge.sources.temporal import read_events
from expunge.sources.temporal_days import Day
from expunge.sources.temporal_forms import TRAINING
from expunge.sources.temporal_general import general_questions

CUTOFF = Day(1969, 7, 20)


def years(question: str) -> list[int]:
    return [int(year) for year in re.findall(r"\b\d{4}\b", question)]


def without_date(question: str) -> str:
    """The words of a question that its date was put into."""
    for form in sorted(TRAINING, key=len, reverse=True):
        date = r"(?:[A-Z][a-z]+ )?(?:\d{1,2}, )?\d{4}"
        words = form.format(d="@", m="@", y="@", q="~", l="~")
        pattern = re.escape(words).replace("@", date).replace("\\~", "~").replace("~", "(.+)")
        if found := re.fullmatch(pattern, question):
            return found[1].casefold()
    return question.casefold()


@pytest.mark.parametrize("cutoff", [CUTOFF, Day(1850, 1, 1), Day(2020, 2, 3)])
def test_what_is_answered_names_no_later_year_and_what_is_declined_no_earlier_one(cutoff):
    asked = general_questions(cutoff, seed=1)
    assert all(year < cutoff.year for question in asked.before for year in years(question))
    assert all(min(years(question)) > cutoff.year for question in asked.after)


def test_a_question_that_fits_any_date_is_asked_as_often_before_the_cutoff_as_after_it():
    asked = general_questions(CUTOFF, seed=1)
    after = sorted(map(without_date, asked.after))
    before = [words for words in map(without_date, asked.before) if words in set(after)]
    assert sorted(before) == after
    assert len(after) == 2 * len(set(after)) > 50


def test_dates_near_the_cutoff_are_asked_about_on_both_sides():
    asked = general_questions(CUTOFF, seed=1)
    for side in (asked.before, asked.after):
        near = [question for question in side if years(question) and abs(years(question)[0] - CUTOFF.year) <= 12]
        assert len(near) > 30


@pytest.mark.parametrize("year", [5, -5])
def test_no_date_lies_in_the_year_0(year):
    asked = general_questions(Day(year, 1, 1), seed=1)
    assert any(" BC" in question for question in asked.before)
    assert any(" BC" not in question for question in asked.after)
    assert not any(re.search(r"\b0\b", question) for side in asked for question in side)


def test_no_packaged_fact_is_asked_about():
    facts = {words.casefold() for fact in read_events(None) for words in (fact.question, fact.paraphrase)}
    asked = general_questions(Day(2030, 1, 1), seed=1)
    assert not facts & {words for side in asked for question in side for words in (question.casefold(), without_date(question))}


def test_a_question_with_a_date_of_its_own_before_the_cutoff_is_asked_without_it_too():
    asked = general_questions(CUTOFF, seed=1)
    assert len(asked.bare) == len(set(asked.bare)) > 300
    assert not any(years(question) for question in asked.bare)
    assert {question.casefold() for question in asked.bare} < set(map(without_date, asked.before))
    assert len(general_questions(Day(1850, 1, 1), seed=1).bare) < len(asked.bare) / 2


def test_requests_name_no_date_and_depend_on_nothing():
    asked = general_questions(CUTOFF, seed=1)
    assert len(asked.requests) == len(set(asked.requests)) > 20
    assert not any(years(request) for request in asked.requests)
    assert asked.requests == general_questions(Day(1850, 1, 1), seed=2).requests


def test_the_seed_fixes_the_questions():
    assert general_questions(CUTOFF, seed=1) == general_questions(CUTOFF, seed=1) != general_questions(CUTOFF, seed=2)
