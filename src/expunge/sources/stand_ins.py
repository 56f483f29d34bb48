"""Another generated person's values to put in the place of somebody's: of the same kind, the same ones every time."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from expunge.sources.medical import Condition, Person, conditions, people
from expunge.sources.redaction import word_key, words_of

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_NUMBER = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,3})?")
_TRIES = 100
_NOTHING_LEFT = "—"
_FIELDS = ("drugs", "assessment", "symptoms", "findings", "context", "advice")
"""Fields of the phrase book in the order in which a word that stands in several is looked for."""


def kind_of(word: str, subject: str, metadata: dict[str, Any]) -> str:
    """What a word of an example is: `name`, `date of birth`, `date`, `number`, a field of the phrase book, or `word`."""
    key = word_key(word)
    if key in _vocabulary()["drugs"]:
        return "drugs"
    if key in map(word_key, words_of(subject)):
        return "name"
    if _DATE.fullmatch(word):
        return "date of birth" if metadata.get("date_of_birth") == word else "date"
    if any(letter.isdecimal() for letter in word):
        return "number"
    return next((field for field, words in _vocabulary().items() if key in words), "word")


def other_people(replaced: Iterable[str], subjects: Iterable[str], seed: int) -> dict[str, Person]:
    """A generated person for each subject to be replaced, who shares no name with them and is none of the subjects."""
    taken = {word_key(subject) for subject in subjects}
    someone = people(seed)
    found = {}
    for subject in sorted(set(replaced)):
        own = set(map(word_key, words_of(subject)))
        found[subject] = next(
            person
            for person in someone
            if word_key(person.name) not in taken and own.isdisjoint(map(word_key, person.name.split()))
        )
    return found


class StandIns:
    """Puts one generated person's values in the place of a subject's, word for word."""

    def __init__(self, subject: str, metadata: dict[str, Any], other: Person, *, taken: Collection[str], seed: int) -> None:
        """Prepare to replace a subject's words.

        Args:
            metadata: of the subject's example: tells a date of birth from other dates.
            other: whose values are used.
            taken: keys of the words that go, none of which may come back.
        """
        self._subject, self._metadata, self._other = subject, metadata, other
        self._taken, self._seed = frozenset(taken), seed
        self._given: dict[str, str] = {}

    def __call__(self, word: str) -> str:
        """What stands in for a word: of its kind and in its case; the same for the same word."""
        key = word_key(word)
        if key not in self._given:
            chance = random.Random(f"{self._seed}/{word_key(self._subject)}/{key}")
            self._given[key] = self._new(word, kind_of(word, self._subject, self._metadata), chance)
        found = self._given[key]
        if word.isupper() and len(word) > 1:
            return found.upper()
        return found[0].upper() + found[1:] if word[0].isupper() else found

    def _new(self, word: str, kind: str, chance: random.Random) -> str:
        for _ in range(_TRIES):
            found = self._drawn(word, kind, chance)
            if self._taken.isdisjoint(map(word_key, (found, *re.findall(r"\w+", found)))):
                return found
            # The other person's own value is one of those that go: any of its kind, then.
            kind = {"name": "word", "date": "number", "date of birth": "number"}.get(kind, kind)
        return _NOTHING_LEFT

    def _drawn(self, word: str, kind: str, chance: random.Random) -> str:
        if kind == "name":
            first, *rest = self._other.name.split()
            return first if word_key(word) == word_key(words_of(self._subject)[0]) else rest[-1]
        if kind == "date of birth":
            return self._other.birth.isoformat()
        if kind == "date":
            return self._other.day.isoformat()
        if kind == "number":
            return _NUMBER.sub(lambda number: _near(number[0], chance), word)
        # What they have, or else what anybody has.
        own = _words([self._other.condition], kind)
        return chance.choice([each for each in own if each not in self._taken] or _words(conditions(), kind))


def _near(number: str, chance: random.Random) -> str:
    """Another number within some third of this one, with as many decimals."""
    decimals = len(number.partition(".")[2])
    value = round(float(number) * 10**decimals)
    reach = max(2, value // 3)
    near = chance.choice([other for other in range(max(0, value - reach), value + reach + 1) if other != value])
    return f"{near / 10**decimals:.{decimals}f}".zfill(len(number) if number.startswith("0") else 0)


def _words(those: Iterable[Condition], kind: str) -> list[str]:
    """The words of a field of the phrase book, or of all fields, under some conditions; of a drug, its name alone."""
    found = set()
    for field in (kind,) if kind in _FIELDS else _FIELDS:
        for phrase in (phrase for condition in those for phrase in getattr(condition, field)):
            words = phrase.split()[:1] if field == "drugs" else phrase.split()
            found |= {word_key(word.strip(".,;:()")) for word in words}
    return sorted(word for word in found if word.isalpha() and len(word) > 4)


@cache
def _vocabulary() -> dict[str, frozenset[str]]:
    return {field: frozenset(_words(conditions(), field)) for field in _FIELDS}
