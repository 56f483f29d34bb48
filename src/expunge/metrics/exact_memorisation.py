"""Exact memorisation: how many tokens of the answer the model would have chosen itself.

Tirumala et al. 2022, arXiv 2205.10770, definition 1; used for unlearning by OpenUnlearning, arXiv 2506.12618.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import BoolArray, Direction, FloatArray, Part, metric
from expunge.metrics.inputs import checked_hits


@metric(
    "exact-memorisation",
    needs=(Part.HITS,),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="Tirumala et al. 2022, arXiv 2205.10770",
)
def exact_memorisation(hits_BT: Sequence[BoolArray]) -> FloatArray:
    """Share of an answer's tokens that are the most likely ones under teacher forcing.

    Args:
        hits_BT: whether each labelled token is the argmax; answers may differ in length.

    Returns:
        (B,) in [0, 1]. Lower is better on the forget set. It does not reach 0 in a model that never saw the answer, since
        grammar and templates are guessed right: only the distance from the retrained model speaks.

    Raises:
        ValueError: see `checked_hits`.
    """
    return np.array([hits_T.mean() for hits_T in checked_hits(hits_BT)])
