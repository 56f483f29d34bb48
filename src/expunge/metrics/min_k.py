"""Min-K%: membership read from the tokens the model found least likely.

Shi et al. 2024, arXiv 2310.16789: a text that was never trained on has some tokens of very low probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from expunge.metrics import FloatArray, Part, membership
from expunge.metrics.inputs import checked_log_p

_PAPER = "Shi et al. 2024, arXiv 2310.16789"


@membership("min-k", needs=(Part.LOG_P,), paper=_PAPER)
def min_k(log_p_BT: Sequence[FloatArray], share: float = 0.2) -> FloatArray:
    """Mean log-probability of the least likely tokens of an answer.

    Args:
        log_p_BT: log-probability of each token of each answer, nats; answers may differ in length.
        share: the share of the tokens that counts, in (0, 1]; rounded up, so at least one. 1 gives minus the loss.

    Returns:
        (B,) ≤ 0; higher = more likely a member.

    Raises:
        ValueError, ExpungeError: `share` is out of range; see `checked_log_p`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, not in (0, 1]")
    return np.array([mean_of_lowest(log_p_T, share) for log_p_T in checked_log_p(log_p_BT)])


@membership("min-k-40", needs=(Part.LOG_P,), paper=_PAPER)
def min_k_40(log_p_BT: Sequence[FloatArray]) -> FloatArray:
    """Mean log-probability of the least likely two fifths of an answer's tokens, as MUSE takes it.

    Returns:
        (B,) ≤ 0; higher = more likely a member.
    """
    return min_k(log_p_BT, 0.4)


def mean_of_lowest(log_p_T: FloatArray, share: float) -> float:
    """Mean of the lowest share of an answer's values, rounded up to whole tokens; peers that round down differ by one."""
    # The tiny subtraction keeps .2 · 5 tokens at one token, whatever the rounding of the product.
    count = max(1, math.ceil(share * log_p_T.size - 1e-9))
    return float(np.partition(log_p_T, count - 1)[:count].mean())
