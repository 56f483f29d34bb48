"""Days of the calendar, also before the common era, and what happened on them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from expunge.errors import ExpungeError

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_YEAR = re.compile(r"(?<![\d,.])(?:1\d{3}|20\d{2})(?![\d,]\d|\d)")
_ISO = re.compile(r"(-?\d{1,4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?")


class Day(NamedTuple):
    """A day of the calendar; years before the common era are negative, which `datetime` cannot say."""

    year: int
    month: int
    day: int

    def __str__(self) -> str:
        sign, year = ("-", -self.year) if self.year < 0 else ("", self.year)
        return f"{sign}{year:04}-{self.month:02}-{self.day:02}"

    def in_words(self) -> str:
        return f"{_MONTHS[self.month - 1]} {self.day}, {self.year_in_words()}"

    def year_in_words(self) -> str:
        return f"{-self.year} BC" if self.year < 0 else str(self.year)


def years_between(first: Day, second: Day) -> float:
    """Years from one day to another, negative backwards; there was no year 0."""

    def place(day: Day) -> float:
        return day.year + (day.year < 0) + (day.month - 1) / 12 + (day.day - 1) / 372

    return place(second) - place(first)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, from its first day to its last."""

    start: Day
    end: Day
    words: str
    """A sentence."""
    id: str
    question: str | None = None
    """One whose answer is not the date, if the table has one."""
    answer: str | None = None
    paraphrase: str | None = None
    """The same question in other words, kept for tests."""
    where: str = ""
    aliases: tuple[str, ...] = ()
    """Other right answers to its question."""

    @property
    def days_in_words(self) -> str:
        """Its day, or its first and last."""
        return self.start.in_words() + (f" to {self.end.in_words()}" if self.end != self.start else "")


def days_of(words: str) -> tuple[Day, Day]:
    """First and last day of what a date says, YYYY-MM-DD, YYYY-MM or YYYY.

    Raises:
        ValueError: it is no date.
    """
    found = _ISO.fullmatch(words.strip())
    if found is None:
        raise ValueError
    return days_from([int(part) for part in found.groups() if part is not None])


def days_from(numbers: list[int]) -> tuple[Day, Day]:
    """First and last day of a year, of a year and month, or of a year, month and day.

    Raises:
        ValueError: there is no such day.
    """
    year, month, day = [*numbers, 0, 0][:3]
    # The year 2000 had every day that any year has; February 29 of others is not worth refusing.
    lengths = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if year == 0 or not 0 <= month <= 12 or not 0 <= day <= (lengths[month - 1] if month else 0):
        raise ValueError
    last = lengths[(month or 12) - 1]
    return Day(year, month or 1, day or 1), Day(year, month or 12, day or last)


def names_year_from(year: int, words: str) -> bool:
    """Whether a sentence names this year or a later one."""
    return any(int(named) >= year for named in _YEAR.findall(words))


def aliases_of(value: Any, where: str) -> tuple[str, ...]:
    """The other right answers that a row gives: a list of texts, a list written as JSON (in CSV), or a single text.

    Args:
        value: what stands under `aliases`; None or an empty text where there are none.
        where: `file:line` of the row.

    Raises:
        ExpungeError: it is none of these, or a text is blank.
    """
    if value in (None, ""):
        return ()
    found: Any = [value] if isinstance(value, str) and not value.startswith("[") else value
    if isinstance(found, str):
        with suppress(ValueError, RecursionError):
            found = json.loads(found)
    if not isinstance(found, list) or not all(isinstance(each, str) and each.strip() for each in found):
        what = f'"aliases" ({str(value)[:40]}) is not a list of texts'
        raise ExpungeError(what, where=where, remedy='write other right answers as ["…", "…"]')
    return tuple(found)


def first_day(words: str) -> Day | None:
    """The first day of what a date says, YYYY-MM-DD, YYYY-MM or YYYY; None if it is no date."""
    try:
        return days_of(words)[0]
    except ValueError:
        return None


def cutoff_day(words: str) -> Day:
    """The day that `--cutoff` names.

    Raises:
        ExpungeError: it is none.
    """
    with suppress(ValueError):
        first, last = days_of(words)
        if first == last:
            return first
    raise ExpungeError(f'--cutoff "{words}" is not a date', remedy="write it as YYYY-MM-DD")
