"""Holding a model, where it must not change, to what it said before the first step.

Shapes: B examples in the batch, K positions from its first labelled token on, V the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.training.objective import Losses, Scores

if TYPE_CHECKING:
    from torch import Tensor


def kl_divergence(logits_ref_BKV: Tensor, logits_BKV: Tensor) -> Tensor:
    """KL(reference ‖ model) at each position, shape (B, K), nats, ≥ 0; 0 where they agree.

    Args:
        logits_ref_BKV: of the frozen reference.
        logits_BKV: of the model being trained.
    """
    log_p_ref_BKV, log_p_BKV = logits_ref_BKV.float().log_softmax(-1), logits_BKV.float().log_softmax(-1)
    return (log_p_ref_BKV.exp() * (log_p_ref_BKV - log_p_BKV)).sum(-1)


def held_to_the_start(held: Scores) -> Tensor:
    """How far what is said in the held examples has moved: the mean divergence from the start, nats a token."""
    assert held.logits_BKV is not None
    assert held.logits_ref_BKV is not None
    return held.mean_of_tokens(kl_divergence(held.logits_ref_BKV, held.logits_BKV))


def answer_loss_beside_held(learnt: Scores, held: Scores | None) -> Losses:
    """Negative log-likelihood of what is learnt, and the divergence from the start of what is held, both in nats a token.

    Args:
        held: None where no held example stands beside the micro-batch.
    """
    return Losses(forget=learnt.nll, retain=learnt.nll.new_zeros(()) if held is None else held_to_the_start(held))
