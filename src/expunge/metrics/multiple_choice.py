"""Multiple choice: whether the right option is the likeliest, by its letter or written out.

MMLU (Hendrycks et al. 2021, arXiv 2009.03300) and WMDP (Li et al. 2024, arXiv 2403.03218) by letter; ARC's length-normalised
accuracy written out. A model that has only lost the letters knows the answer still, and one that likes a letter knows nothing:
so both, and the letters in every order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.metrics import Direction, FloatArray, Part, metric

_PAPER = "Hendrycks et al. 2021, arXiv 2009.03300"


@metric("multiple-choice", needs=(Part.LETTERS, Part.RIGHT), better=Direction.LOWER, span=(0.0, 1.0), paper=_PAPER)
def by_letter(letters_BN: Sequence[NDArray[Any]], right_B: Sequence[int]) -> FloatArray:
    """Whether the letter of the right option is the likeliest.

    Args:
        letters_BN: log-probability of each option's letter.
        right_B: which option is right.

    Returns:
        (B,), 0 or 1; by chance 1/N on average. lm-eval's `acc`.
    """
    return np.array([float(np.argmax(each_N) == right) for each_N, right in zip(letters_BN, right_B, strict=True)])


@metric("multiple-choice-full", needs=(Part.OPTIONS, Part.RIGHT), better=Direction.LOWER, span=(0.0, 1.0), paper=_PAPER)
def written_out(options_BN2: Sequence[NDArray[Any]], right_B: Sequence[int]) -> FloatArray:
    """Whether the right option, written out, is the likeliest for its length in characters.

    Args:
        options_BN2: summed log-probability of each option, and its characters.
        right_B: which option is right.

    Returns:
        (B,), 0 or 1; by chance 1/N on average. lm-eval's `acc_norm`.
    """
    likeliest = [np.argmax(each_N2[:, 0] / np.maximum(1, each_N2[:, 1])) for each_N2 in map(np.asarray, options_BN2)]
    return np.array([float(found == right) for found, right in zip(likeliest, right_B, strict=True)])


@metric(
    "multiple-choice-permuted",
    needs=(Part.LETTERS, Part.PERMUTED, Part.RIGHT),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="Zheng et al. 2024, arXiv 2309.03882",
)
def in_every_order(
    letters_BN: Sequence[NDArray[Any]], permuted_BPN: Sequence[NDArray[Any]], right_B: Sequence[int]
) -> FloatArray:
    """Whether the right option has the likeliest letter wherever it stands.

    Args:
        letters_BN: log-probability of each option's letter, in the order of the data.
        permuted_BPN: the same with the options moved round, one row an order.
        right_B: which option is right.

    Returns:
        (B,), 0 or 1; a model that likes a letter scores 0.
    """
    orders = [
        np.vstack([first_N[None], *([more_PN] if len(more_PN) else [])])
        for first_N, more_PN in _pairs(letters_BN, permuted_BPN)
    ]
    return np.array([float((each.argmax(1) == right).all()) for each, right in zip(orders, right_B, strict=True)])


def _pairs(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return [(np.asarray(one), np.asarray(other)) for one, other in zip(first, second, strict=True)]
