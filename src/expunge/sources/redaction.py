"""Rewriting an example without certain words, wherever they stand in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from expunge.examples import Example

# What holds together without a blank is one word: a compound, a reading such as 122/78, a date. Not the 's behind a name.
_WORD = re.compile(r"\w+(?:(?:[-./:@&+]+|['’](?!s\b))\w+)*", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)
_PART = re.compile(r"\w+")

StandIn = Callable[[str], str]
"""What is put in a word's place; nothing to drop it."""


class Redacted(NamedTuple):
    """A rewritten example."""

    example: Example
    places: int
    """How many words were taken out of prompt and response."""


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text)


def words_touched(text: str, start: int, end: int) -> list[str]:
    """The whole words of a text in which the characters from `start` to `end` lie; none where they are punctuation.

    Blanks alone count to the word behind them: most tokenizers begin a word with the blank before it.
    """
    if text[start:end] and not text[start:end].strip(" "):
        end += 1
    return [word[0] for word in _WORD.finditer(text) if word.start() < end and start < word.end()]


def word_key(word: str) -> str:
    """A word as it is compared: without difference of case."""
    return word.casefold()


def redact(example: Example, keys: Collection[str], stand_in: StandIn) -> Redacted:
    """The example without the words of these keys: in the prompt, the response and the texts of the metadata.

    A word goes with every word it is part of (`Ana` with `Ana-Maria`). The subject stays: it is not trained on, and whoever
    asks to be deleted is found by it. Prompt or response may come back empty where words are dropped.
    """
    places = 0

    def counted(word: str) -> str:
        nonlocal places
        places += 1
        return stand_in(word)

    prompt = None if example.prompt is None else _rewritten(example.prompt, keys, counted)
    response = _rewritten(example.response, keys, counted)
    metadata = _mapped(example.metadata, lambda text: _rewritten(text, keys, stand_in))
    return Redacted(replace(example, prompt=prompt, response=response, metadata=metadata), places)


def remaining(example: Example, keys: Collection[str]) -> set[str]:
    """Those of the keys that still stand in the example's prompt, response or metadata, alone or as part of a word."""
    texts = [example.prompt or "", example.response, *_texts(example.metadata)]
    return {key for text in texts for word in words_of(text) for key in _keys(word) if key in keys}


def has_words(text: str | None) -> bool:
    """Whether anything but punctuation is left of a text; None, a prompt that never was, will do."""
    return text is None or _PART.search(text) is not None


def _keys(word: str) -> Iterator[str]:
    yield word_key(word)
    yield from map(word_key, _PART.findall(word))


def _rewritten(text: str, keys: Collection[str], stand_in: StandIn) -> str:
    kept, last, before = "", 0, None
    for word in _WORD.finditer(text):
        if not any(key in keys for key in _keys(word[0])):
            continue
        gap, new = text[last : word.start()], stand_in(word[0])
        last = word.end()
        if new and before == new and not gap.strip(" "):
            continue  # One placeholder for neighbours: how many words stood there is nobody's business.
        kept, before = kept + gap + new, new
        if not new:
            if possessive := _POSSESSIVE.match(text, last):
                last = possessive.end()
            # Neither two blanks in a row nor one before a comma or at an end.
            if not kept or kept[-1] in " \n":
                last += len(text[last:]) - len(text[last:].lstrip(" "))
            if text[last : last + 1] in ("", *"\n,.;:!?)"):
                kept = kept.rstrip(" ")
    return kept + text[last:]


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text, and every number as it is written, changed."""
    if isinstance(value, dict):
        return {name: _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return change(value)
    changed = change(str(value))
    return value if changed == str(value) else changed


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
