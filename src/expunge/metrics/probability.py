"""Probability of the expected answer, length-normalised: exp(mean log p).

Maini et al. 2024 (TOFU), arXiv 2401.06121, section 2.2: P(a|q)^(1/|a|).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric
from expunge.metrics.inputs import checked_log_p


@metric(
    "probability",
    needs=(Part.LOG_P,),
    better=Direction.LOWER,
    span=(0.0, 1.0),
    paper="Maini et al. 2024, arXiv 2401.06121, section 2.2",
)
def probability(log_p_BT: Sequence[FloatArray]) -> FloatArray:
    """Geometric mean of the probabilities of an answer's tokens.

    Args:
        log_p_BT: log-probability of each token of each answer, nats; answers may differ in length.

    Returns:
        (B,) in [0, 1]; 1: the model would write nothing else. Lower is better on the forget set.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    return np.array([min(1.0, np.exp(log_p_T.mean())) for log_p_T in checked_log_p(log_p_BT)])
