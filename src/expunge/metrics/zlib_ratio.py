"""The zlib attack: membership read from the loss beside how well a compressor does without having seen anything."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from expunge.metrics import FloatArray, Part, membership
from expunge.metrics.loss import loss


@membership("zlib", needs=(Part.LOG_P, Part.EXPECTED), paper="Carlini et al. 2021, arXiv 2012.07805")
def zlib_ratio(log_p_BT: Sequence[FloatArray], expected_B: Sequence[str]) -> FloatArray:
    """Minus the mean loss of the answer over the bytes zlib makes of it.

    Args:
        log_p_BT: log-probability of each token of each answer, nats.
        expected_B: the answers.

    Returns:
        (B,) ≤ 0, nats a token and byte; higher = more likely a member.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    return np.asarray(-loss(log_p_BT) / np.array([len(zlib.compress(text.encode())) for text in expected_B]))
