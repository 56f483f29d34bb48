"""Fluency: n-gram entropy of the model's own answers, which falls when it repeats itself.

Zhang et al. 2018, arXiv 1809.05972; weights of Meng et al. 2022 (ROME), arXiv 2202.05262: 2/3 for pairs, 4/3 for triples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
_WORD = re.compile(r"\w+|[^\w\s]")


@metric(
    "fluency", needs=(Part.GENERATED,), better=Direction.HIGHER, span=(0.0, None), paper="Meng et al. 2022, arXiv 2202.05262"
)
def fluency(generated_B: Sequence[str]) -> FloatArray:
    """Weighted mean entropy of the pairs and the triples of words in an answer.

    Args:
        generated_B: what the model wrote.

    Returns:
        (B,) ≥ 0, bits. 0: empty, or the same word over and over. Longer answers reach more: compare with the target's.
    """
    return np.array([_entropy(_WORD.findall(text)) for text in generated_B])


def _entropy(words: Sequence[str]) -> float:
    return float(np.mean([weight * _of_grams(words, size) for size, weight in _WEIGHTS.items()]))


def _of_grams(words: Sequence[str], size: int) -> float:
    counts = np.array([*Counter(zip(*(words[start:] for start in range(size)), strict=False)).values()], np.float64)
    shares = counts / counts.sum() if counts.size else counts
    return float(max(0.0, -(shares * np.log2(shares)).sum()))
