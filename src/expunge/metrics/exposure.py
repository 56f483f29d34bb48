"""Canary exposure: how far a secret stands out among secrets that might have been there instead.

Carlini et al. 2019, arXiv 1802.08232: log₂|R| - log₂ rank. The space R is the answer and the wrong answers in the same words
(`perturbed_answer`): five of them allow 2.6 bits, a few hundred made-up canaries 8. Their probabilities are length-normalised,
which changes nothing for canaries of one form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric
from expunge.metrics.inputs import checked_log_p


@metric(
    "exposure",
    needs=(Part.LOG_P, Part.PERTURBED),
    better=Direction.LOWER,
    span=(0.0, None),
    paper="Carlini et al. 2019, arXiv 1802.08232",
)
def exposure(log_p_BT: Sequence[FloatArray], perturbed_BN: Sequence[FloatArray]) -> FloatArray:
    """log₂ of the number of candidates, less log₂ of the answer's rank among them by probability.

    Args:
        log_p_BT: log-probability of each token of each answer, nats.
        perturbed_BN: mean log-probability a token of each other candidate.

    Returns:
        (B,) bits, in [0, log₂(N + 1)]; a tie counts against the answer. By chance about log₂ e = 1.4 with many candidates.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    return np.array(
        [
            np.log2(len(other_N) + 1) - np.log2(1 + np.count_nonzero(np.asarray(other_N) >= log_p_T.mean()))
            for log_p_T, other_N in zip(checked_log_p(log_p_BT), perturbed_BN, strict=True)
        ]
    )
