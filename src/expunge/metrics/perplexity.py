"""Perplexity of a set: exp of all its nats over all its tokens, so that long texts count by their length.

Jelinek et al. 1977. On ordinary text it tells whether general ability survived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expunge.metrics import Direction, FloatArray, Over, Part, metric
from expunge.metrics.inputs import checked_log_p


class Totals(NamedTuple):
    """What the examples of a set add to its perplexity."""

    nats_B: FloatArray
    """Summed negative log-likelihood of each example, ≥ 0."""
    tokens_B: FloatArray
    """Number of labelled tokens of each example, ≥ 1."""


@metric(
    "perplexity", needs=(Part.LOG_P,), better=Direction.HIGHER, span=(1.0, None), over=Over.TOKENS, paper="Jelinek et al. 1977"
)
def totals(log_p_BT: Sequence[FloatArray]) -> Totals:
    """Nats and tokens of each example; `perplexity` makes one number of them.

    Args:
        log_p_BT: log-probability of each token of each answer, nats; answers may differ in length.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    checked = checked_log_p(log_p_BT)
    return Totals(
        np.array([max(0.0, -log_p_T.sum()) for log_p_T in checked]), np.array([log_p_T.size for log_p_T in checked], np.float64)
    )


def perplexity(nats_per_token: FloatArray) -> FloatArray:
    """exp(total nats / total tokens), in [1, ∞). Lower is better on what must stay, higher on what must go.

    Held below e^700, so that a collapsed model is reported by a number and not by an overflow.
    """
    return np.asarray(np.exp(np.minimum(nats_per_token, 700.0)))
