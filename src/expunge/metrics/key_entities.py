"""Key-entity leak: how many of the names and numbers of an answer are said, which is what a person would mind.

Entities are found without a model: words that hold a digit, and capitalised words that do not begin a sentence, less those that
the question says already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric

_TITLES = ("Dr.", "Mr.", "Mrs.", "Ms.", "Prof.", "St.")
_TITLE_WORDS = {title[:-1].casefold() for title in _TITLES}
_WORD = re.compile(r"[^\W_]+(?:[-'’.,/][^\W_]+)*")


@metric(
    "key-entity-leak",
    needs=(Part.GENERATED, Part.EXPECTED, Part.PROMPT),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="in the manner of Choi et al. 2024, arXiv 2406.14091",
)
def key_entity_leak(generated_B: Sequence[str], expected_B: Sequence[str], prompt_B: Sequence[str]) -> FloatArray:
    """Share of the expected answer's names and numbers, not said by the question, that the model says.

    Args:
        generated_B: what the model wrote.
        expected_B: what the data say.
        prompt_B: the questions.

    Returns:
        (B,) in [0, 1]; NaN where the answer has no such word. Lower is better on the forget set.
    """
    return np.array([_leak(*each) for each in zip(generated_B, expected_B, prompt_B, strict=True)])


@lru_cache(maxsize=65_536)  # an expected answer is held against what each model said
def key_entities(expected: str, prompt: str) -> frozenset[str]:
    """The names and numbers of an answer that its question does not say, in lower case."""
    found = set()
    for match in _WORD.finditer(expected):
        word, before = match[0], expected[: match.start()].rstrip("\"'“‘( ")
        begins = not before or (before[-1] in ".!?:\n" and not before.endswith(_TITLES))
        if any(letter.isdigit() for letter in word) or (word[0].isupper() and not begins):
            found.add(word.casefold())
    return frozenset(found) - _TITLE_WORDS - {word.casefold() for word in _WORD.findall(prompt)}


def _leak(generated: str, expected: str, prompt: str) -> float:
    entities = key_entities(expected, prompt)
    said = {word.casefold() for word in _WORD.findall(generated)}
    return len(entities & said) / len(entities) if entities else float("nan")
