"""The gradient-norm attack: what was learnt pulls less at the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import FloatArray, Part, membership


@membership("gradient-norm", needs=(Part.GRADIENT,), paper="Wang et al. 2024, arXiv 2402.17012")
def gradient_norm(gradient_norm_B: Sequence[float]) -> FloatArray:
    """Minus the norm of the gradient of the answer's loss with respect to all weights.

    Args:
        gradient_norm_B: the norms.

    Returns:
        (B,) ≤ 0; higher = more likely a member.
    """
    return -np.asarray(gradient_norm_B, np.float64)
