"""Logit lens: the answer read off early, before the last layers may have covered it.

nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, metric
from expunge.metrics.inputs import checked_log_p


@metric("logit-lens", needs=(Part.LENS,), better=Direction.LOWER, span=(0.0, 1.0), paper="nostalgebraist 2020")
def logit_lens(lens_BL: Sequence[FloatArray]) -> FloatArray:
    """Probability of the answer, length-normalised, at the layer where it is greatest, the last one left out.

    Args:
        lens_BL: mean log-probability a token of each answer, after the embedding and after each layer.

    Returns:
        (B,) in [0, 1]. Lower is better on the forget set; above `probability` where an inner layer knows more than is said.
    """
    return np.array([min(1.0, np.exp(each_L[:-1].max())) for each_L in checked_log_p(lens_BL)])
