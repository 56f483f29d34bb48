"""Generic answers in place of the forget answers, found by comparing with a model that knows the forget set even better.

Eldan and Russinovich 2023, arXiv 2310.02238. The target is first trained on the forget set once more; tokens that this made
likelier are the ones that are particular to it. What the target would have said without them is what it is taught.

When to use it: for knowledge known from many texts. Where an answer is known by heart, the reinforced model hardly differs from
the target, and little is taken away: then `--reinforce-steps` or `--alpha` must be large.

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
class WhosHarryPotter:
    """Teach the forget set what the model would have said of it without what is particular to it."""

    alpha: float = 5.0
    """How strongly what the reinforcement made likelier is taken away."""
    reinforce_steps: int = 20
    """Steps of training on the forget set before."""
    forget_weight: float = 1.0
    """Weight of the generic answers' loss."""
    retain_weight: float = 1.0
    """Weight of the retain loss."""


def generic_logits(logits_BKV: Tensor, reinforced_BKV: Tensor, alpha: float) -> Tensor:
    """The target's logits less alpha times what reinforcement added to them, where it added; shape (B, K, V).

    Args:
        logits_BKV: of the frozen target.
        reinforced_BKV: of the target trained further on the forget set.
        alpha: ≥ 0.
    """
    return logits_BKV - alpha * (reinforced_BKV - logits_BKV).relu()


@method(
    "whos-harry-potter",
    WhosHarryPotter,
    needs=(Need.LOGITS, Need.REFERENCE_LOGITS, Need.REINFORCED_LOGITS, Need.RETAIN),
    paper="Eldan and Russinovich 2023, arXiv 2310.02238",
)
def loss(config: WhosHarryPotter, forget: Scores, retain: Scores | None) -> Losses:
    """Negative log-likelihood of the likeliest generic token on the forget side, of the retain set on the other."""
    from torch.nn.functional import cross_entropy

    assert forget.logits_BKV is not None
    assert forget.logits_ref_BKV is not None
    assert forget.logits_reinforced_BKV is not None
    assert retain is not None
    generic_BK = generic_logits(forget.logits_ref_BKV, forget.logits_reinforced_BKV, config.alpha).argmax(-1)
    loss_BK = cross_entropy(forget.logits_BKV.flatten(0, 1).float(), generic_BK.flatten(), reduction="none")
    return Losses(
        forget=config.forget_weight * forget.mean_of_tokens(loss_BK.view_as(generic_BK)),
        retain=config.retain_weight * retain.nll,
    )
