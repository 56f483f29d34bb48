"""Unlearning by self-distillation: the target's own distributions are learnt, with the memorised token's logit lowered.

Dong et al. 2024, arXiv 2402.10052. What is learnt is bounded, so it does not run away; and every other token keeps the place
the target gave it. Positions without a label are left out.

When to use it: where ascent is too unstable; it takes a larger learning rate than `npo`.

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
class Undial:
    """Learn the target's own distributions with each memorised token made less likely, and keep the retain set."""

    beta: float = 10.0
    """By how much the logit of a memorised token is lowered, ≥ 0."""
    forget_weight: float = 1.0
    """Weight of the distillation."""
    retain_weight: float = 1.0
    """Weight of the retain loss; 0 in the paper."""


def undial_loss(logits_BKV: Tensor, logits_ref_BKV: Tensor, labels_BK: Tensor, beta: float) -> Tensor:
    """Cross-entropy against the lowered distribution at each position, shape (B, K), nats, ≥ 0.

    Args:
        logits_BKV: of the model being unlearned.
        logits_ref_BKV: of the frozen target.
        labels_BK: the memorised tokens' ids; what stands where there is none (a negative id) does not matter.
        beta: by how much the label's logit is lowered.
    """
    import torch

    lowered_BKV = logits_ref_BKV.float().clone()
    place_BK1 = labels_BK.clamp(min=0).unsqueeze(-1)
    lowered_BKV.scatter_add_(-1, place_BK1, torch.full_like(place_BK1, -beta, dtype=lowered_BKV.dtype))
    return -(lowered_BKV.softmax(-1) * logits_BKV.float().log_softmax(-1)).sum(-1)


@method(
    "undial",
    Undial,
    needs=(Need.LOGITS, Need.REFERENCE_LOGITS, Need.RETAIN),
    paper="Dong et al. 2024, arXiv 2402.10052",
)
def loss(config: Undial, forget: Scores, retain: Scores | None) -> Losses:
    """Distillation on the forget side, negative log-likelihood on the retain side, both in nats a token."""
    assert forget.logits_BKV is not None
    assert forget.logits_ref_BKV is not None
    assert forget.labels_BK is not None
    assert retain is not None
    loss_BK = undial_loss(forget.logits_BKV, forget.logits_ref_BKV, forget.labels_BK, config.beta)
    return Losses(forget=config.forget_weight * forget.mean_of_tokens(loss_BK), retain=config.retain_weight * retain.nll)
