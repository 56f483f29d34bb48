"""Questions on which nothing is taught: what a model says to them by itself is what it should keep.

Taught a few hundred facts and nothing else, a small model gives their answers to whatever is asked in the same manner, and
declines what merely sounds late. Its own answers to other questions hold it where it was; they need not be right. Some of the
questions fit any date: asked of an earlier and of a later one, they differ in nothing but the date. Greetings and requests have
no date: without them it declines to say who it is.
"""

from __future__ import annotations

import random
from importlib.resources import as_file, files
from typing import NamedTuple

from expunge.examples import read_rows
from expunge.sources.temporal_days import Day, Event
from expunge.sources.temporal_forms import TRAINING, dated, drawn

_NEAR, _BEFORE, _AFTER = 8, 120, 50
"""Years from the cutoff: half of the dates drawn by chance lie nearer than the first, the others up to the second or third."""
_DATES = 2
"""Dates of each side of which a question that fits any date is asked."""


class General(NamedTuple):
    """General questions, by the side of the cutoff they are on."""

    before: list[str]
    """To be answered as the model would by itself."""
    after: list[str]
    """To be declined."""
    bare: list[str]
    """Questions on earlier times that have a date of their own, without it: to be answered too."""
    requests: list[str]
    """Greetings and requests as they stand, to be answered as the model would by itself."""


def general_questions(cutoff: Day, seed: int) -> General:
    """The packaged questions, each with a date, in wordings and with days drawn by chance; and the requests.

    Args:
        cutoff: the first day of the later side.
        seed: of what is drawn.
    """
    before, after, bare, requests = [], [], [], []
    with as_file(files("expunge.sources").joinpath("general_questions.jsonl")) as packaged:
        for number, row in enumerate(read_rows(packaged)):
            if "request" in row.value:
                requests.append(row.text("request"))
                continue
            question = row.text("question")
            rng = random.Random(f"{seed}:{question}")
            if "date" not in row.value:
                for turn in range(_DATES):
                    near = (number + turn) % 2 == 0
                    before.append(_asked(question, -_years(near, _BEFORE, rng), cutoff, rng))
                    after.append(_asked(question, _years(near, _AFTER, rng), cutoff, rng))
            elif (year := int(row.text("date"))) < cutoff.year:
                before.append(_asked(question, year - cutoff.year, cutoff, rng))
                bare.append(question)
    return General(before, after, bare, requests)


def _asked(question: str, years: int, cutoff: Day, rng: random.Random) -> str:
    """The question about a day so many calendar years from the cutoff's, drawn by chance."""
    year = cutoff.year + years
    # There was no year 0.
    if cutoff.year > 0 >= year:
        year -= 1
    elif cutoff.year < 0 <= year:
        year += 1
    day = Day(year, rng.randint(1, 12), rng.randint(1, 28))
    return dated(question, Event(day, day, question, question), drawn(TRAINING, 1, rng), cutoff)[0]


def _years(near: bool, far: int, rng: random.Random) -> int:
    return rng.randint(1, _NEAR) if near else rng.randint(_NEAR + 1, far)
