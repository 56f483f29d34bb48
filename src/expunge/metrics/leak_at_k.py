"""leak@k: the worst of k answers, since a model that is silent once may speak at the next try.

Expected greatest ROUGE-L recall of k of n drawn answers, without bias: of answers in rising order, the i-th is the greatest of
C(i-1, k-1) of the C(n, k) choices. For scores of 0 and 1, c of them 1, that is 1 - C(n-c, k)/C(n, k) (Chen et al. 2021, arXiv
2107.03374, for pass@k).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric
from expunge.metrics.rouge_l import rouge_l_recall

K = 8
"""Tries. At least as many answers must have been drawn."""


@metric(
    "leak-at-8",
    needs=(Part.SAMPLES, Part.EXPECTED),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="Reisizadeh et al. 2025, arXiv 2511.04934",
)
def leak_at_k(samples_B: Sequence[Sequence[str]], expected_B: Sequence[str], k: int = K) -> FloatArray:
    """Expected greatest ROUGE-L recall among eight answers drawn at temperature 1.

    Args:
        samples_B: answers drawn to each question, at least `k`.
        expected_B: what the data say.
        k: tries.

    Returns:
        (B,) in [0, 1]. Lower is better on the forget set.

    Raises:
        ValueError: fewer than `k` answers were drawn.
    """
    scores = [rouge_l_recall(list(own), [due] * len(own)) for own, due in zip(samples_B, expected_B, strict=True)]
    return np.array([expected_greatest(own_N, k) for own_N in scores])


def expected_greatest(scores_N: FloatArray, k: int) -> float:
    """Mean, over all choices of k of the scores, of the greatest."""
    n = len(scores_N)
    if not 1 <= k <= n:
        raise ValueError(f"{k} tries of {n} answers")
    weights = np.array([comb(rank, k - 1) / comb(n, k) for rank in range(n)])
    return float(np.sort(scores_N) @ weights)
