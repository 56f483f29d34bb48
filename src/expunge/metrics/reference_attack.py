"""The reference attack: membership read from the loss beside that of a model that never saw the text."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.metrics import FloatArray, Part, membership
from expunge.metrics.loss import loss


@membership("reference", needs=(Part.LOG_P,), beside_retrained=True, paper="Carlini et al. 2021, arXiv 2012.07805")
def reference_attack(log_p_BT: Sequence[FloatArray], reference_log_p_BT: Sequence[FloatArray]) -> FloatArray:
    """How much less loss the answer has than under the retrained model.

    Args:
        log_p_BT: log-probability of each token of each answer, nats.
        reference_log_p_BT: the same under the reference.

    Returns:
        (B,), nats a token; higher = more likely a member.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    return loss(reference_log_p_BT) - loss(log_p_BT)
