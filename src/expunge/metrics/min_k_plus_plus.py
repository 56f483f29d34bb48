"""Min-K%++: Min-K% of log-probabilities made comparable from place to place in the text.

Zhang et al. 2025, arXiv 2404.02936: a token counts by how far its log-probability stands above what the model expected there,
(log p - μ)/σ, with μ = Σ p log p and σ² = Σ p log² p - μ² over the vocabulary. Like the authors' code, σ² is held above 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import FloatArray, Part, membership
from expunge.metrics.inputs import checked_log_p
from expunge.metrics.min_k import mean_of_lowest

_LEAST_VARIANCE = 1e-6


@membership(
    "min-k-plus-plus",
    needs=(Part.LOG_P, Part.ENTROPY, Part.VARIANCE),
    paper="Zhang et al. 2025, arXiv 2404.02936",
)
def min_k_plus_plus(
    log_p_BT: Sequence[FloatArray], entropy_BT: Sequence[FloatArray], variance_BT: Sequence[FloatArray], share: float = 0.2
) -> FloatArray:
    """Mean standard score of the least expected fifth of an answer's tokens.

    Args:
        log_p_BT: log-probability of each token of each answer, nats.
        entropy_BT: entropy of each token's distribution, nats: -μ.
        variance_BT: variance of log p under it: σ².
        share: the share of the tokens that counts, in (0, 1]; rounded up.

    Returns:
        (B,); higher = more likely a member.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    return np.array(
        [
            mean_of_lowest((log_p_T + entropy_T) / np.sqrt(np.maximum(variance_T, _LEAST_VARIANCE)), share)
            for log_p_T, entropy_T, variance_T in zip(checked_log_p(log_p_BT), entropy_BT, variance_BT, strict=True)
        ]
    )
