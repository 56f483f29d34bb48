"""PrivLeak: how far a membership attack's AUC lies from that on the retrained model (MUSE's fourth audit).

Shi et al. 2025 (MUSE), arXiv 2407.06460, section 3: 100 · (AUC of the unlearned - AUC of the retrained) / AUC of the retrained,
of the Min-40% attack with forget examples as those to be recognised as *non*-members, so that each AUC is 1 minus ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Over, Part, metric
from expunge.metrics.min_k import min_k_40


@metric(
    "privleak",
    needs=(Part.LOG_P,),
    better=Direction.MIDDLE,
    span=(-100.0, None),
    over=Over.AGAINST_RETRAINED,
    paper="Shi et al. 2025, arXiv 2407.06460",
)
def min_k_scores(log_p_BT: Sequence[FloatArray]) -> FloatArray:
    """Membership scores of Min-40%, whose AUC `privleak` compares with the retrained model's.

    Returns:
        (B,) ≤ 0; higher = more likely a member.
    """
    return min_k_40(log_p_BT)


def privleak(auc: FloatArray, retrained_auc: FloatArray) -> FloatArray:
    """100 · (s - r) / r with s, r = 1 - AUC of the model and of the retrained one.

    Args:
        auc, retrained_auc: chance that a forget example scores above a holdout one.

    Returns:
        Same shape, ≥ -100. 0: as the retrained model; negative: the forget set is still known; positive: over-forgotten. Held
        below 1e6 where the retrained model's AUC is 1.
    """
    r = np.maximum(1 - np.asarray(retrained_auc), 1e-4)
    return np.minimum(100 * ((1 - np.asarray(auc)) - r) / r, 1e6)
