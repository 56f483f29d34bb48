"""How well a membership score tells members from non-members."""

from __future__ import annotations

import numpy as np

from expunge.metrics import FloatArray


def auc(members_B: FloatArray, others_C: FloatArray) -> float:
    """Area under the ROC curve: the chance that a member scores above a non-member, ties counted half.

    Args:
        members_B: scores of examples that were trained on (the forget set); higher = more likely a member.
        others_C: scores of examples that were not (the holdout set).

    Returns:
        In [0, 1]. .5: no signal. Below .5 the members stand out by being *less* likely, which tells them apart as well.

    Raises:
        ValueError: one side is empty or not finite.
    """
    _refuse_unusable(members_B, others_C)
    others_C = np.sort(others_C)
    below = np.searchsorted(others_C, members_B, "left") + np.searchsorted(others_C, members_B, "right")
    return float(below.mean() / 2 / others_C.size)


def tpr_at_fpr(members_B: FloatArray, others_C: FloatArray, fpr: float = 0.01) -> float:
    """Share of the members found by the strictest threshold that takes at most `fpr` of the non-members for members.

    Carlini et al. 2022, arXiv 2112.03570. With fewer than 1/fpr non-members, not one of them may be mistaken.

    Returns:
        In [0, 1]; about `fpr` when there is no signal.

    Raises:
        ValueError: one side is empty or not finite.
    """
    _refuse_unusable(members_B, others_C)
    allowed = int(fpr * others_C.size + 1e-9)
    threshold = np.sort(others_C)[::-1][allowed] if allowed < others_C.size else -np.inf
    return float((members_B > threshold).mean())


def _refuse_unusable(members_B: FloatArray, others_C: FloatArray) -> None:
    for scores in (members_B, others_C):
        if scores.size == 0 or not np.isfinite(scores).all():
            raise ValueError("membership scores must be finite, and at least one on each side")
