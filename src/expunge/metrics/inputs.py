"""What a metric may be given: refused here, so that no formula below returns NaN or a number of nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.errors import ExpungeError
from expunge.metrics import BoolArray, FloatArray


def checked_log_p(log_p_BT: Sequence[FloatArray]) -> list[FloatArray]:
    """The log-probabilities of each answer as float64, (T,) each.

    Raises:
        ValueError: there is no example, an answer without tokens, or a log-probability above 0.
        ExpungeError: a value is NaN or infinite, which is what a broken model or a too narrow number type gives.
    """
    _refuse_no_examples(log_p_BT)
    checked: list[FloatArray] = []
    for number, log_p_T in enumerate(log_p_BT):
        values_T = np.asarray(log_p_T, np.float64)
        _refuse_no_tokens(values_T, number)
        if not np.isfinite(values_T).all():
            raise ExpungeError(
                f"the model gave a log-probability that is not a number, in example {number + 1}",
                remedy="load it in float32 or bfloat16, and check that its weights are whole",
            )
        if values_T.max() > 1e-3:  # float32 log-softmax may end a hair above 0
            raise ValueError(f"example {number} has log-probability {values_T.max():.4f}, which is above 0")
        checked.append(values_T)
    return checked


def checked_hits(hits_BT: Sequence[BoolArray]) -> list[BoolArray]:
    """The argmax hits of each answer, (T,) each.

    Raises:
        ValueError: there is no example, an answer without tokens, or values that are not true or false.
    """
    _refuse_no_examples(hits_BT)
    checked: list[BoolArray] = []
    for number, hits_T in enumerate(hits_BT):
        values_T = np.asarray(hits_T)
        _refuse_no_tokens(values_T, number)
        if values_T.dtype != np.bool_:
            raise ValueError(f"example {number} has hits of type {values_T.dtype}, not bool")
        checked.append(values_T)
    return checked


def _refuse_no_examples(values: Sequence[object]) -> None:
    if len(values) == 0:
        raise ValueError("a metric needs at least one example")


def _refuse_no_tokens(values_T: FloatArray | BoolArray, number: int) -> None:
    if values_T.ndim != 1 or values_T.size == 0:
        raise ValueError(f"example {number} has shape {values_T.shape}; an answer is one row of at least one token")
