"""Loss of the expected answer, and the loss attack: membership read from the loss alone.

Attack: Yeom et al. 2018, arXiv 1709.01604.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Part, membership, metric
from expunge.metrics.inputs import checked_log_p


@metric("loss", needs=(Part.LOG_P,), better=Direction.HIGHER, span=(0.0, None), paper="Yeom et al. 2018, arXiv 1709.01604")
def loss(log_p_BT: Sequence[FloatArray]) -> FloatArray:
    """Mean negative log-likelihood of an answer's tokens.

    Args:
        log_p_BT: log-probability of each token of each answer, nats; answers may differ in length.

    Returns:
        (B,) ≥ 0, nats per token. Higher is better on the forget set, but only up to the retrained model's loss: beyond it
        the model is over-forgetting, which `loss-auc` sees.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    return np.array([max(0.0, -log_p_T.mean()) for log_p_T in checked_log_p(log_p_BT)])


@membership("loss", needs=(Part.LOG_P,), paper="Yeom et al. 2018, arXiv 1709.01604")
def loss_membership(log_p_BT: Sequence[FloatArray]) -> FloatArray:
    """Membership score of the loss attack: minus the loss.

    Returns:
        (B,) ≤ 0; higher = more likely a member.
    """
    return -loss(log_p_BT)
