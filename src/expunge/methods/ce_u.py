"""Cross-entropy unlearning: the model's own distribution without the label is what it is taught.

Yang 2025, arXiv 2503.01224. At each position the target is the model's present distribution with the label's logit removed; it
needs no reference, and its gradient does not vanish where the label is certain.

When to use it: where answers are known by heart, so that ascent finds hardly a gradient, or a reference is too dear. Give it a
holdout: it does not stop by itself. The paper has no retain loss; here there is one, because without it the rest follows soon.

Shapes: B examples in the batch, K positions from its first labelled token on, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.errors import at_least
from expunge.methods import method
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CeU:
    """Teach the model its own distribution without the forget answer's token, and keep the retain set."""

    skip_tokens: int = 1
    """So many tokens at the start of each answer are left alone: they are hardly about anybody."""
    forget_weight: float = 1.0
    """Weight of the forget loss."""
    retain_weight: float = 4.0
    """Weight of the retain loss; 0 in the paper."""


def ce_u_loss(logits_BKV: Tensor, labels_BK: Tensor) -> Tensor:
    """Cross-entropy against the model's own distribution without the label, shape (B, K), nats, ≥ 0.

    Args:
        logits_BKV: of the model being unlearned; no gradient goes through the distribution that is made of them.
        labels_BK: the tokens' ids; what stands where there is none (a negative id) does not matter.
    """
    place_BK1 = labels_BK.clamp(min=0).unsqueeze(-1)
    without_BKV = logits_BKV.detach().float().scatter(-1, place_BK1, float("-inf")).softmax(-1)
    return -(without_BKV * logits_BKV.float().log_softmax(-1)).sum(-1)


@method("ce-u", CeU, needs=(Need.LOGITS, Need.RETAIN), paper="Yang 2025, arXiv 2503.01224")
def loss(config: CeU, forget: Scores, retain: Scores | None) -> Losses:
    """Cross-entropy unlearning on the forget side, negative log-likelihood on the retain side, both in nats a token."""
    at_least(0, skip_tokens=config.skip_tokens)
    assert forget.logits_BKV is not None
    assert forget.labels_BK is not None
    assert retain is not None
    looked_at_BK = forget.labelled_BK & (forget.labelled_BK.cumsum(1) > config.skip_tokens)
    loss_BK = ce_u_loss(forget.logits_BKV, forget.labels_BK).masked_fill(~looked_at_BK, 0)
    # Of the whole batch, however it is split; an answer may be no longer than what is skipped.
    tokens = max(1, forget.of_tokens - config.skip_tokens * forget.of_examples)
    return Losses(forget=config.forget_weight * loss_BK.sum() / tokens, retain=config.retain_weight * retain.nll)
