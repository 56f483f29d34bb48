"""Gradient ascent, with the retain answers' distributions held where the target had them.

Yao et al. 2023, arXiv 2310.10683, and "KL minimisation" in Maini et al. 2024 (TOFU), arXiv 2401.06121. The divergence is taken
at labelled positions alone: over padding it would be diluted by however much padding a batch has.

When to use it: where the retain set is small, so that its labels alone would be learnt by heart.

Shapes: B examples in the batch, K positions from its first labelled token on, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KlMin:
    """Climb the loss of the forget set while keeping the target's distributions on the retain set."""

    forget_weight: float = 1.0
    """Weight of the ascent."""
    retain_weight: float = 1.0
    """Weight of the divergence from the target on the retain set."""


def kl_divergence(logits_ref_BKV: Tensor, logits_BKV: Tensor) -> Tensor:
    """KL(reference ‖ model) at each position, shape (B, K), nats, ≥ 0; 0 where they agree.

    Args:
        logits_ref_BKV: of the frozen target.
        logits_BKV: of the model being unlearned.
    """
    log_p_ref_BKV, log_p_BKV = logits_ref_BKV.float().log_softmax(-1), logits_BKV.float().log_softmax(-1)
    return (log_p_ref_BKV.exp() * (log_p_ref_BKV - log_p_BKV)).sum(-1)


@method(
    "kl-min",
    KlMin,
    needs=(Need.RETAIN, Need.RETAIN_REFERENCE_LOGITS),
    paper="Yao et al. 2023, arXiv 2310.10683; Maini et al. 2024, arXiv 2401.06121",
)
def loss(config: KlMin, forget: Scores, retain: Scores | None) -> Losses:
    """Minus the forget set's negative log-likelihood, plus the retain set's divergence, both in nats a token."""
    assert retain is not None
    assert retain.logits_BKV is not None
    assert retain.logits_ref_BKV is not None
    kl_BK = kl_divergence(retain.logits_ref_BKV, retain.logits_BKV)
    return Losses(forget=-config.forget_weight * forget.nll, retain=config.retain_weight * retain.mean_of_tokens(kl_BK))
