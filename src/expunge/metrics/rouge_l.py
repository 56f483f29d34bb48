"""ROUGE-L recall of the greedy answer, stemmed: how much of the expected answer is said, in its order.

Lin 2004. Words are cut and stemmed by the rouge-score package; the longest common subsequence is counted here, bit by bit
(Hyyrö 2004), which gives the package's numbers and takes a fraction of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from expunge.errors import ExpungeError
from expunge.metrics import Direction, FloatArray, Part, metric


@metric("rouge-l-recall", needs=(Part.GENERATED, Part.EXPECTED), better=Direction.LOWER, span=(0.0, 1.0))
def rouge_l_recall(generated_B: Sequence[str], expected_B: Sequence[str]) -> FloatArray:
    """Length of the longest common subsequence of stemmed words over the number of words expected.

    Args:
        generated_B: what the model wrote; may be empty, which scores 0.
        expected_B: what the data say.

    Returns:
        (B,) in [0, 1]. Lower is better on the forget set. Recall does not punish a long answer.

    Raises:
        ValueError: no examples, or not as many generated as expected answers.
        ExpungeError: an expected answer has no word of a–z or 0–9, all that ROUGE counts: 0 would look like forgetting.
    """
    if len(generated_B) == 0 or len(generated_B) != len(expected_B):
        raise ValueError(f"{len(generated_B)} generated answers for {len(expected_B)} expected ones")
    return np.array([_recall(generated, expected) for generated, expected in zip(generated_B, expected_B, strict=True)])


def _recall(generated: str, expected: str) -> float:
    words = _words(expected)
    if not words:
        raise ExpungeError(
            f'ROUGE-L counts words of a–z and 0–9 only, and the expected answer "{expected[:40]}" has none',
            remedy="leave this example out, or audit without rouge-l-recall",
        )
    return longest_common_subsequence(words, _words(generated)) / len(words)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence of words that stands in both, in order, gaps allowed."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(first)) - 1
    row = every  # a 0 bit at place i: the best common subsequence grows by one at first[i]
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(first) - row.bit_count()


@lru_cache(maxsize=16_384)  # an expected answer is compared with what each model said
def _words(text: str) -> tuple[str, ...]:
    from rouge_score.tokenize import tokenize

    return tuple(tokenize(text, _stemmer()))


@cache
def _stemmer() -> Any:
    """The package's Porter stemmer, which stems each word once: stemming is most of the work."""
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    stemmer = PorterStemmer()
    stemmer.stem = lru_cache(maxsize=65_536)(stemmer.stem)
    return stemmer
