"""Where an answer departs from the expected one, word by word."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

_WORDS = 400
_CHARACTERS = 2000
_WORD = re.compile(r"\S+")
_PUNCTUATION = re.compile(r"^\W+|\W+$")

Kind = Literal["same", "other", "missing"]


class Piece(NamedTuple):
    """A stretch of an answer."""

    kind: Kind
    """`same`: also in the expected answer, in this order; `other`: not there; `missing`: expected, but not said."""
    text: str

    @property
    def words(self) -> int:
        return len(self.text.split())


class Comparison(NamedTuple):
    """An answer beside the expected one."""

    pieces: tuple[Piece, ...]
    kept: int
    """How many of the expected answer's words the answer has, in their order."""
    expected: int
    """How many words the expected answer has."""
    cut: int
    """Characters of the answer that are not shown because it is too long."""

    @property
    def share(self) -> float:
        """`kept` of `expected`, 0 to 1."""
        return self.kept / self.expected if self.expected else 0.0


def compare(answer: str, expected: str) -> Comparison:
    """Align an answer with the expected one by whole words; case and punctuation around a word do not count.

    Only the first 400 words or 2,000 characters of either are compared and shown: a model that repeats itself for
    pages says nothing more by it.
    """
    shown, wanted = shortened(answer), shortened(expected)
    said_words, wanted_words = _WORD.findall(shown), _WORD.findall(wanted)
    matcher = difflib.SequenceMatcher(
        None, [_key(word) for word in wanted_words], [_key(word) for word in said_words], autojunk=False
    )
    pieces: list[Piece] = []
    kept = 0
    for step, start, end, said_start, said_end in matcher.get_opcodes():
        said = " ".join(said_words[said_start:said_end])
        if step == "equal":
            kept += end - start
            pieces.append(Piece("same", said))
            continue
        if end > start:
            pieces.append(Piece("missing", " ".join(wanted_words[start:end])))
        if said:
            pieces.append(Piece("other", said))
    return Comparison(tuple(pieces), kept, len(wanted_words), len(answer) - len(shown))


def shortened(text: str) -> str:
    """The part of a text that is compared and shown."""
    text = text[:_CHARACTERS]
    words = list(_WORD.finditer(text))
    return text if len(words) <= _WORDS else text[: words[_WORDS - 1].end()]


def _key(word: str) -> str:
    return _PUNCTUATION.sub("", word).casefold() or word
