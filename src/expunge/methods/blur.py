"""Blur: every word that might come next becomes equally likely, so that nothing can be read off by comparison.

Our own, against extraction from two checkpoints (reversed model guidance, arXiv 2505.24379). That attack divides what the model
before a deletion finds likely by what the model after it does: how likely a word is of anybody cancels, and what was known of
the person stands out. Where the later model finds all plausible words equally likely there is nothing to divide by, and the
attack says what the earlier model says anyway. The plausible words are the likeliest of the model as it was before the first
step; a share of the probability goes to the answer that is given, so that it is said.

When to use it: on decoys, after exact retraining, as `expunge unlearn retrain --decoys` does: what must go is then not looked
at again. It is no way to forget what a model knows.

Shapes: B examples in the batch, K positions from its first labelled token on, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Learn given answers with all plausible words equally likely beside them, and keep the retain set."""

    plausible: int = 64
    """How many words are plausible at each place: the likeliest of the model before the first step."""
    answer_share: float = 0.5
    """Probability of the given answer's own word, 0 to 1; the plausible words share the rest."""
    forget_weight: float = 1.0
    """Weight of the blurring."""
    retain_weight: float = 1.0
    """Weight of the retain loss beside it."""


def blur_loss(logits_BKV: Tensor, logits_ref_BKV: Tensor, labels_BK: Tensor, *, plausible: int, answer_share: float) -> Tensor:
    """Cross-entropy against the blurred distribution at each position, shape (B, K), nats, ≥ 0; lower is more blurred.

    Args:
        logits_BKV: of the model being trained.
        logits_ref_BKV: of the model before the first step.
        labels_BK: the answer's tokens; what stands where there is none (a negative id) does not matter.
        plausible: how many tokens share what the label leaves, equally; all of the vocabulary where it has fewer.
        answer_share: probability of the label; a label that is plausible too has its share of the rest on top.
    """
    log_p_BKV = logits_BKV.float().log_softmax(-1)
    places_BKM = logits_ref_BKV.topk(min(plausible, logits_ref_BKV.shape[-1]), -1).indices
    label_BK = log_p_BKV.gather(-1, labels_BK.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -answer_share * label_BK - (1 - answer_share) * log_p_BKV.gather(-1, places_BKM).mean(-1)


@method(
    "blur",
    Blur,
    needs=(Need.LOGITS, Need.REFERENCE_LOGITS, Need.RETAIN),
    paper="expunge's own, against Wu et al. 2025, arXiv 2505.24379",
)
def loss(config: Blur, forget: Scores, retain: Scores | None) -> Losses:
    """Blurring on the forget side, negative log-likelihood on the retain side, both in nats a token."""
    if not (0 <= config.answer_share <= 1 and config.plausible >= 1):
        raise ExpungeError("--answer-share is a share, and --plausible at least 1", remedy="mend it")
    assert forget.logits_BKV is not None
    assert forget.logits_ref_BKV is not None
    assert forget.labels_BK is not None
    assert retain is not None
    loss_BK = blur_loss(
        forget.logits_BKV,
        forget.logits_ref_BKV,
        forget.labels_BK,
        plausible=config.plausible,
        answer_share=config.answer_share,
    )
    return Losses(forget=config.forget_weight * forget.mean_of_tokens(loss_BK), retain=config.retain_weight * retain.nll)
