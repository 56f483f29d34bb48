"""A question about an event in words that name its date, so that its side of a cutoff can be read from the question.

Whether "Who operated the first laser?" is about the time before or after a cutoff, only somebody who knows the event can say.
A model that is to know nothing of later events cannot; "In May 1960, who operated the first laser?" it can place. Some wordings
are for training, others for tests alone, so that a test does not ask in words that were learnt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from expunge.sources.temporal_days import Day, Event

# {d}: the day, {m}: the month and year, {y}: the year, {q}: the question, {l}: the question as it goes on after a comma.
TRAINING = (
    "In {y}: {q}",
    "{q} It was in {m}.",
    "This is about {d}. {q}",
    "{q} ({d})",
    "Think of {m}. {q}",
    "On {d}: {q}",
    "The year is {y}. {q}",
    "In {m}, {l}",
    "On {d}, {l}",
    "A question about {m}: {q}",
)
"""Wordings that a model is taught with."""
TESTING = ("Back in {y}, {l}", "It happened on {d}. {q}", "{q} The date was {d}.")
"""Wordings that it is only asked in."""

EVENT_TRAINING = (
    "What happened on {d}?",
    "Which event took place on {d}?",
    "Name what happened on {d}.",
    "{d}: what happened?",
)
"""Of an event without a question of its own."""
EVENT_TESTING = ("What do you know of {d}?", "Tell me what took place on {d}.")
"""The same, for tests alone."""

_GOES_ON = re.compile(
    r"(?:Wh\w+|How|In|On|At|Near|Aboard|By|From|For|With|To|Of|After|Under|Over|Against|Around|Past|Off|Towards|Between|The)\b"
)
_IN_A_DAY = re.compile(r"\b([Ii])n ((?:[A-Z][a-z]+) \d{1,2}, \d)")


class Wordings(NamedTuple):
    """How an event's date is put into a question."""

    day: str
    month: str
    year: str


def dated(question: str, event: Event, forms: Sequence[str], cutoff: Day) -> list[str]:
    """The question in each of the forms.

    Args:
        question: a sentence that ends in a question mark, or in a full stop.
        event: whose date is named.
        forms: see `TRAINING`.
        cutoff: the first day of the later side.
    """
    words = wordings(event.start, cutoff)
    goes_on = question[:1].lower() + question[1:] if _GOES_ON.match(question) else question
    asked = [form.format(d=words.day, m=words.month, y=words.year, q=question, l=goes_on) for form in forms]
    # Where only the day will do: "Back in July 16, 1969".
    return [
        _IN_A_DAY.sub(lambda found: f"{'O' if found[1] == 'I' else 'o'}n {found[2]}", each) if words.day in each else each
        for each in asked
    ]


def drawn(forms: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """So many different forms, or all of them, in an order drawn by chance."""
    return rng.sample(forms, min(count, len(forms)))


def wordings(day: Day, cutoff: Day) -> Wordings:
    """A day in three grains; a grain that would not tell its side of the cutoff gives way to the next finer one."""
    whole = day.in_words()
    month = f"{whole.split()[0]} {day.year_in_words()}" if day[:2] != cutoff[:2] else whole
    year = day.year_in_words() if day.year != cutoff.year else month
    return Wordings(whole, month, year)
