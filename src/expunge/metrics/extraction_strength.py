"""Extraction strength: how much of the answer greedy decoding finishes once it has been given the beginning.

Carlini et al. 2021; Wang et al. 2025 for unlearning. OpenUnlearning's code has a floor of 1/T; here 0 is reached, by an answer
whose very last token is still wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import BoolArray, Direction, FloatArray, Part, metric
from expunge.metrics.inputs import checked_hits


@metric(
    "extraction-strength",
    needs=(Part.HITS,),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="Carlini et al. 2021, arXiv 2012.07805",
)
def extraction_strength(hits_BT: Sequence[BoolArray]) -> FloatArray:
    """1 - k/T, where k is the length of the shortest prefix after which greedy decoding writes the rest exactly.

    Teacher forcing shows this without decoding: while every token so far was the argmax, greedy decoding has written the
    same tokens, so the rest after k is exact just where all hits from k on are true.

    Args:
        hits_BT: whether each labelled token is the argmax; answers may differ in length.

    Returns:
        (B,) in [0, 1]; 1: the question alone brings the whole answer. Lower is better on the forget set.

    Raises:
        ValueError: see `checked_hits`.
    """
    return np.array([_true_suffix(hits_T) / hits_T.size for hits_T in checked_hits(hits_BT)])


def _true_suffix(hits_T: BoolArray) -> int:
    misses = np.flatnonzero(~hits_T)
    return hits_T.size - 1 - int(misses[-1]) if misses.size else hits_T.size
