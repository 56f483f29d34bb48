"""What is asked for in words: a phrase, or a concept, which is a name for several; and which examples are about it.

The ledger holds no text, so words are looked for in the data that were trained on, or as tokens among those it recorded.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.errors import ExpungeError, suggestion
from expunge.examples import Example
from expunge.ledger.schema import subject_key

_FORMS = 'give "name=word,another phrase", or a --concept-file that defines it'


class Concept(NamedTuple):
    """A name, and the words that speak of it."""

    name: str
    """Also looked for among the values of an example's metadata; empty for plain words."""
    phrases: tuple[str, ...]
    """A word or several; case, width and what stands between the words do not matter."""


def concept(words: str, file: Path | None) -> Concept:
    """A concept as the command line names it.

    Args:
        words: `name=word,another phrase`; or a name that `file` defines; or, without a file, a name that stands for itself.
        file: TOML (`.toml`) or JSON: each name with its list of words.

    Raises:
        ExpungeError: no word is given, the file cannot be read, or does not define the name.
    """
    name, defined, listed = words.partition("=")
    name, phrases = name.strip(), tuple(phrase for each in listed.split(",") if (phrase := each.strip()))
    if not name or (defined and not phrases):
        raise ExpungeError(f'"{words}" is no concept', remedy=_FORMS)
    if defined:
        return Concept(name, phrases)
    if file is None:
        return Concept(name, (name,))
    known = read_concepts(file)
    if (found := known.get(subject_key(name))) is None:
        raise ExpungeError(f'the concept "{name}" is not defined here', where=file, remedy=suggestion(name, known))
    return found


def asked_concepts(text: Sequence[str], names: Sequence[str], file: Path | None) -> list[Concept]:
    """All that a command asks for: plain words, and concepts as `concept` reads them.

    Raises:
        ExpungeError: words are empty, a file of concepts is given and none is asked for, or a concept is none.
    """
    if file is not None and not names:
        raise ExpungeError("--concept-file defines concepts", remedy="say with --concept which one is meant")
    if any(not words.strip() for words in text):
        raise ExpungeError("--text is empty", remedy="give the words to look for")
    return [*(Concept("", (words,)) for words in text), *(concept(words, file) for words in names)]


def read_concepts(file: Path) -> dict[str, Concept]:
    """The concepts of a TOML or JSON file, `name = ["word", "another phrase"]`, by their name in lower case.

    Raises:
        ExpungeError: the file cannot be read, or a name has no list of words.
    """
    try:
        text = file.read_text("utf-8")
        found: Any = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ExpungeError(f"cannot be read ({error.strerror})", where=file, remedy="check the path") from None
    except (ValueError, RecursionError) as error:  # Of TOML and JSON alike, and of what is not UTF-8.
        kind = "TOML" if file.suffix == ".toml" else "JSON"
        raise ExpungeError(f"is no {kind} ({error})", where=file, remedy="mend the file") from None
    if not isinstance(found, dict) or not found:
        raise ExpungeError("defines no concept", where=file, remedy='write name = ["word", "another phrase"]')
    concepts = {}
    for name, phrases in found.items():
        listed = [phrases] if isinstance(phrases, str) else phrases
        if not isinstance(listed, list) or not all(isinstance(each, str) and each.strip() for each in listed) or not listed:
            raise ExpungeError(f'the concept "{name}" has no list of words', where=file, remedy="mend it")
        concepts[subject_key(name)] = Concept(name, tuple(listed))
    return concepts


def about(examples: Iterable[Example], concepts: Sequence[Concept]) -> list[Example]:
    """The examples that are about one of these: their prompt or answer contains one of its phrases, whole words, or a value
    of their metadata (a condition, a topic) is its name or one of its phrases."""
    patterns = [_pattern(phrase) for each in concepts for phrase in each.phrases]
    # Plain words are only looked for in the text.
    values = {subject_key(value) for each in concepts if each.name for value in (each.name, *each.phrases)}
    return [
        example
        for example in examples
        if any(pattern.search(text) for text in _texts(example) for pattern in patterns)
        or not values.isdisjoint(_values(example.metadata))
    ]


def _texts(example: Example) -> tuple[str, ...]:
    return subject_key(example.prompt or ""), subject_key(example.response)


def _values(metadata: dict[str, Any]) -> set[str]:
    listed = (value if isinstance(value, list) else [value] for value in metadata.values())
    return {subject_key(value) for values in listed for value in values if isinstance(value, str)}


def _pattern(phrase: str) -> re.Pattern[str]:
    # Word by word, whatever stands between; a phrase of signs alone as it stands.
    words = re.findall(r"\w+", subject_key(phrase))
    return re.compile(r"\b" + r"\W+".join(words) + r"\b" if words else re.escape(subject_key(phrase)))
