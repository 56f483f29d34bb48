"""Edit similarity: how few words must be put in, left out or changed to make the expected answer of the model's own.

1 - Levenshtein distance over the words of the longer answer (Lee et al. 2022, arXiv 2107.06499, have it over tokens). Unlike
recall it punishes a long answer. Words are ROUGE's. Bit-parallel (Myers 1999).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric
from expunge.metrics.rouge_l import stemmed_words


@metric(
    "edit-similarity",
    needs=(Part.GENERATED, Part.EXPECTED),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="Lee et al. 2022, arXiv 2107.06499",
)
def edit_similarity(generated_B: Sequence[str], expected_B: Sequence[str]) -> FloatArray:
    """1 - word edits between the two answers over the words of the longer.

    Args:
        generated_B: what the model wrote.
        expected_B: what the data say.

    Returns:
        (B,) in [0, 1]; 1: the same words, stemmed. Lower is better on the forget set.
    """
    return np.array([_similarity(said, due) for said, due in zip(generated_B, expected_B, strict=True)])


def _similarity(said: str, due: str) -> float:
    first, second = stemmed_words(said), stemmed_words(due)
    return 1 - levenshtein(first, second) / max(1, len(first), len(second))


def levenshtein(first: Sequence[str], second: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence of the other."""
    if not first or not second:
        return len(first) + len(second)
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    # Bit i: the distance grows (up) or falls (down) by one from i to i + 1 words of the first.
    up, down, distance = every, 0, len(first)
    for word in second:
        match = places.get(word, 0)
        vertical = match | down
        match |= down
        diagonal = (((match & up) + up) ^ up) | match
        right, left = down | ~(diagonal | up) & every, up & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & every, (left << 1) & every
        up, down = left | ~(vertical | right) & every, right & vertical
    return distance
