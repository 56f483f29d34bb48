"""Model utility: TOFU's one number for what must stay.

Maini et al. 2024, arXiv 2401.06121, section 2.2.1: harmonic mean of nine numbers: probability, ROUGE-L recall and max(0, 1 - R)
on retain set, real authors and world facts. It falls to 0 with any of the nine: read them beside it.
"""

from __future__ import annotations

import numpy as np

from expunge.metrics import Direction, FloatArray, Over, metric

_OPEN = ("probability", "rouge-l-recall", "truth-ratio-true")
_CLOSED = ("option-probability", "rouge-l-recall", "truth-ratio-true")


@metric(
    "model-utility",
    needs=(),
    # On the sets it is of, higher is better; it never speaks of the forget set.
    better=Direction.HIGHER,
    span=(0.0, 1.0),
    over=Over.SETS,
    of={"retain": _OPEN, "real_authors": _CLOSED, "world_facts": _CLOSED},
    paper="Maini et al. 2024, arXiv 2401.06121",
)
def harmonic_mean(values_DM: FloatArray) -> FloatArray:
    """Harmonic mean over the last axis.

    Args:
        values_DM: M numbers in [0, 1], of each of D draws.

    Returns:
        (D,) in [0, 1]; 0 where one of them is 0.
    """
    values_DM = np.asarray(values_DM, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(values_DM.shape[-1] / (1 / values_DM).sum(-1))
