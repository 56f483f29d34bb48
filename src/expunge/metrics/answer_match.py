"""Whether an answer says what was expected, in whatever dress: names, numbers, dates and sentences.

Words are compared without case, accents, articles and punctuation. Beyond that

- a date is right however it is written, a number in words or in digits;
- every part of "A and B" must be said, in any order;
- where a question asks who, or the surname is among the aliases, it is enough, unless another first name stands before it;
- what is denied ("not in Paris") is not said;
- an expected sentence (what happened) need not be repeated: ROUGE-L recall of its words decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from expunge.metrics.rouge_l import rouge_l_recall

SENTENCE_WORDS = 6
"""From so many words on, an expected answer is a sentence, which can be put in other words."""
SENTENCE_RECALL = 0.6
"""ROUGE-L recall from which a sentence counts as said."""

_MONTH_NAMES = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTHS = {name[:3]: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_NUMBERS = {
    word: str(number)
    for words, numbers in (
        ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen", range(17)),
        ("seventeen eighteen nineteen", range(17, 20)),
        ("twenty thirty forty fifty sixty seventy eighty ninety", range(20, 100, 10)),
    )
    for word, number in zip(words.split(), numbers, strict=True)
} | dict(
    zip(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
        ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th"),
        strict=True,
    )
)
_TENS = {str(number) for number in range(20, 100, 10)}
_MONTH = "(" + "|".join(rf"{name[:3]}(?:{name[3:]}|t)?" for name in _MONTH_NAMES) + ")"
_DATES = (
    (re.compile(rf"\b{_MONTH}\.? (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{3,4}})\b"), (3, 1, 2)),
    (re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}\.?,? (\d{{3,4}})\b"), (3, 2, 1)),
    (re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b"), (1, 2, 3)),
)
_STROKED = str.maketrans("ıøłđØŁĐ", "ioldOLD")
_ARTICLES = {"a", "an", "the"}
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|rather than|instead of)|n['’]t)(?: (?:in|on|at|by|to|from|the|a|an|was|is))* $"
)
_WHO = re.compile(r"\b(?:who|whom|whose)\b", re.IGNORECASE)
_ORDINAL = re.compile(r"[IVX]+")
_TITLES = {
    *("president", "mr", "mrs", "ms", "dr", "sir", "lady", "lord", "king", "queen", "emperor", "chancellor", "general"),
    *("admiral", "marshal", "captain", "pope", "minister", "senator", "professor"),
}


def says(answer: str, expected: str, aliases: Sequence[str] = (), *, prompt: str = "") -> bool:
    """Whether the answer says the expected one, or one of its aliases.

    Args:
        answer: what a model said.
        expected: the right answer.
        aliases: other right answers.
        prompt: the question.
    """
    person, surname = _WHO.search(prompt) is not None, _surname(expected)
    # "Which president" asks who, too: the table may say so by "Truman", and still "Bess Truman" is somebody else.
    if expected.strip() and _says(answer, expected, person or surname in aliases):
        return True
    return any(_says(answer, each, person) for each in aliases if each.strip() and each != surname)


def _says(answer: str, expected: str, person: bool) -> bool:
    if dates := _dates(expected):
        return dates <= _dates(answer)
    words = _words(expected)
    if not words:
        return expected.strip() in answer
    said = _words(answer)
    if _stands(words, said):
        return True
    if len(words) >= SENTENCE_WORDS:
        return float(rouge_l_recall([answer], [expected])[0]) >= SENTENCE_RECALL
    parts = re.split(r",? and |, ", expected)
    if len(parts) > 1 and all(_words(part) for part in parts):
        return all(_stands(_words(part), said) for part in parts)
    return _without_initials(expected, said) or (person and _surname_stands(expected, answer))


def _stands(words: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the words stand together in what was said, and are not denied there."""
    for start in range(len(said) - len(words) + 1):
        before = " ".join(said[max(0, start - 4) : start]) + " "
        if list(said[start : start + len(words)]) == list(words) and not _DENIED.search(before):
            return True
    return False


def _names(expected: str) -> list[str]:
    return re.sub(r"['’]s?$", "", expected.strip()).split()


def _surname(expected: str) -> str | None:
    """The last of several names; None where there is none."""
    names = _names(expected)
    if len(names) < 2 or not all(name[0].isupper() for name in (names[0], names[-1])):
        return None
    # "Juan Carlos I" has no surname, and everybody says "I". Nor have "The Gardner Museum" and "HMS Beagle".
    thing = names[0].casefold() in _ARTICLES or re.fullmatch(r"[A-Z]{2,}", names[0])
    return None if thing or _ORDINAL.fullmatch(names[-1]) else names[-1]


def _surname_stands(expected: str, answer: str) -> bool:
    """Whether a person of several names is called by the last of them alone, and not by another first name."""
    if (surname := _surname(expected)) is None:
        return False
    own = {word for name in _names(expected)[:-1] for word in _words(name)} | _TITLES
    answer = _plain(answer)
    for match in re.finditer(rf"(?:\b([A-Z][\w.'’-]*) )?(?<![\w-]){re.escape(_plain(surname))}(?![\w-])", answer):
        denied = _DENIED.search(" ".join(answer[: match.start()].casefold().split()) + " ")
        if not denied and set(_words(match[1] or "")) <= own:
            return True
    return False


def _without_initials(expected: str, said: Sequence[str]) -> bool:
    """Whether "Harry S. Truman" is called Harry Truman."""
    shorter = [word for word in _words(expected) if len(word) > 1]
    return len(shorter) >= 2 and len(shorter) < len(_words(expected)) and _stands(shorter, said)


def _plain(text: str) -> str:
    """Without accents."""
    letters = unicodedata.normalize("NFKD", text.translate(_STROKED))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    """Its words in lower case and plain letters, numbers in digits, without articles."""
    plain = re.sub(r"n['’]t\b", " not", _plain(text.casefold()))
    plain = re.sub(r"['’]s?\b", "", plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain)
    found = re.findall(r"\d+(?:\.\d+)?(?:st|nd|rd|th)?|[^\W\d_]+", plain)
    return tuple(_joined_tens(_NUMBERS.get(word, word) for word in found if word not in _ARTICLES))


def _joined_tens(words: Iterable[str]) -> Iterable[str]:
    """twenty one → 21."""
    waiting: str | None = None
    for word in words:
        if waiting is not None and re.fullmatch(r"[1-9](?:st|nd|rd|th)?", word):
            yield waiting[0] + word
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        waiting = word if word in _TENS else None
        if waiting is None:
            yield word
    if waiting is not None:
        yield waiting


def _dates(text: str) -> set[tuple[int, int, int]]:
    """Every whole day named, as (year, month, day)."""
    found = set()
    plain = text.casefold()
    for pattern, order in _DATES:
        for match in pattern.finditer(plain):
            year, month, day = (match[group] for group in order)
            found.add((int(year), _MONTHS.get(month[:3], 0) or int(month), int(day)))
    return found
