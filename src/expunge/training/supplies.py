"""What a method asked for beside the scores of its own model: computed once before the first step, handed out with each batch.

Shapes: B examples of the micro-batch, K positions from its first labelled token on, V the vocabulary, H the hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from expunge.batching import TokenBatch, Tokenized
from expunge.evidence import label_log_p, score_labels
from expunge.training.hidden import Head, LabelHidden, kept_before_head, kept_behind_layer, label_hidden
from expunge.training.objective import Need, Scores
from expunge.training.prefix import can_share, hidden_together, score_together

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.evidence.scoring import LabelScores
    from expunge.training.plan import MicroBatch

Kept = Mapping[int, "Tensor"]
"""Place of an example → one row a labelled token."""


@dataclass(frozen=True, kw_only=True)
class Supplies:
    """By side, `forget` or `retain`; the other answers to its questions are `forget other` and `retain other`."""

    others: Mapping[str, Sequence[Tokenized]] = field(default_factory=dict)
    """Another answer to each question of a side, in the order of its examples."""
    log_p: Mapping[str, Tensor] = field(default_factory=dict)
    """Log-probability of each answer under the frozen reference, nats, shape (examples,)."""
    weights: Sequence[Tensor] | None = None
    """Of the labelled tokens of each forget answer."""
    logits: frozenset[str] = frozenset()
    """Sides whose logits are wanted."""
    head: Head | None = None
    """The head of the frozen reference."""
    before_head: Mapping[str, Kept] = field(default_factory=dict)
    """What the frozen reference gives its head for each label."""
    reinforced: Mapping[str, Kept] = field(default_factory=dict)
    """What the reinforced model gives its head for each label, and that head."""
    reinforced_head: Head | None = None
    layer: int | None = None
    """Hidden states behind this layer are wanted instead of log-probabilities."""
    behind_layer: Mapping[str, Kept] = field(default_factory=dict)
    """Those of the frozen reference."""
    shares: bool = False
    """What sequences begin with together is run once."""

    def run(
        self, model: nn.Module, batches: Mapping[str, TokenBatch], *, whole: bool = False
    ) -> dict[str, LabelScores | LabelHidden]:
        """Pass the batches of some sides, or of the other answers to their questions, through the model.

        Args:
            whole: every sequence from its beginning to its end, whatever they share.
        """
        hidden = [name for name in batches if self.layer is not None and name in self.behind_layer]
        scored = [name for name in batches if name not in hidden]
        to_score, to_end = ([batches[name] for name in names] for names in (scored, hidden))
        wanted = [name in self.logits for name in scored]
        states: list[LabelHidden] = []
        # A sequence by itself has nothing to share.
        if self.shares and not whole and sum(len(batch.input_ids_BT) for batch in batches.values()) > 1:
            labels = score_together(model, to_score, logits=wanted)
            if self.layer is not None:
                states = hidden_together(model, to_end, self.layer)
        else:
            labels = [score_labels(model, batch, logits=logits) for batch, logits in zip(to_score, wanted, strict=True)]
            if self.layer is not None:
                states = [label_hidden(model, batch, self.layer) for batch in to_end]
        return dict(zip([*scored, *hidden], [*labels, *states], strict=True))

    def scores(
        self, side: str, found: LabelScores | LabelHidden, places: Sequence[int], *, of_examples: int, of_tokens: int
    ) -> Scores:
        """What came of one side, as the method sees it."""
        if isinstance(found, LabelHidden):
            hidden_BKH, labelled_BK = found
            # There are no log-probabilities; the method does not look at these.
            nothing_BK = torch.zeros(labelled_BK.shape, dtype=hidden_BKH.dtype, device=hidden_BKH.device)
            kept_BKH = self._spread(self.behind_layer[side], places, labelled_BK, hidden_BKH)
            return Scores(nothing_BK, labelled_BK, None, of_examples, of_tokens, hidden_BKH=hidden_BKH, hidden_ref_BKH=kept_BKH)
        labels = found
        more: dict[str, Any] = {}
        if side in self.logits:
            more |= {"labels_BK": labels.labels_BK, "logits_BKV": labels.logits_BKV}
        for name, kept, head in (
            ("logits_ref_BKV", self.before_head, self.head),
            ("logits_reinforced_BKV", self.reinforced, self.reinforced_head),
        ):
            if side in kept and head is not None:
                assert labels.logits_BKV is not None
                more[name] = self._logits(head, kept[side], places, labels.labelled_BK, labels.logits_BKV)
        if self.weights is not None and side == "forget":
            weights = {place: self.weights[place] for place in places}
            more["weight_BK"] = self._spread(weights, places, labels.labelled_BK, labels.log_p_BK)
        reference_B = self.log_p[side][list(places)].to(labels.log_p_BK.device) if side in self.log_p else None
        return Scores(labels.log_p_BK, labels.labelled_BK, reference_B, of_examples, of_tokens, **more)

    @staticmethod
    def _spread(kept: Kept, places: Sequence[int], labelled_BK: Tensor, like: Tensor) -> Tensor:
        """What was kept of each labelled token, at the place it has in this batch; 0 elsewhere."""
        spread = torch.zeros_like(like, requires_grad=False)
        # Row by row and in order of position, as the mask picks its places.
        spread[labelled_BK] = torch.cat([kept[place] for place in places]).to(spread)
        return spread

    @staticmethod
    def _logits(head: Head, kept: Kept, places: Sequence[int], labelled_BK: Tensor, like: Tensor) -> Tensor:
        logits_BKV = torch.zeros_like(like, requires_grad=False)
        logits_NV = head.logits(torch.cat([kept[place] for place in places]).to(like.device))
        logits_BKV[labelled_BK] = logits_NV.to(logits_BKV.dtype)
        return logits_BKV


def supply(
    needs: frozenset[Need],
    model: Any,
    sides: Mapping[str, Sequence[Tokenized]],
    plan: Sequence[MicroBatch],
    *,
    others: Mapping[str, Sequence[Tokenized]],
    weights: Sequence[Tensor] | None,
    layer: int | None,
    pad: int,
    shares: bool = False,
) -> Supplies:
    """Ask the model as it is now, the frozen reference, for all that a method needs of it.

    Args:
        needs: the method's.
        sides: `forget`, `retain` and, if there are any, `kept`.
        plan: the micro-batches of this process: only what they hold is kept.
        layer: of the hidden states, where those are needed.
        shares: whether what sequences begin with together is to be run once, where the model can.
    """
    log_p: dict[str, Tensor] = {}
    if Need.REFERENCE in needs:
        each = label_log_p(model, sides["forget"], pad=pad)
        weighted = each if weights is None else map(torch.mul, each, weights)
        log_p["forget"] = torch.stack([log_p_K.sum() for log_p_K in weighted])
        if "forget other" in others:
            log_p["forget other"] = _summed(model, others["forget other"], pad=pad)
    if sides["kept"]:
        log_p["kept"] = _summed(model, sides["kept"], pad=pad)
    places = {
        "forget": {place for micro in plan for place in micro.forget},
        "retain": {place for micro in plan for place in micro.retain},
    }
    distilled = [
        side for side, need in (("forget", Need.REFERENCE_LOGITS), ("retain", Need.RETAIN_REFERENCE_LOGITS)) if need in needs
    ]
    return Supplies(
        others=others,
        log_p=log_p,
        weights=weights,
        logits=frozenset([*distilled, *(["forget"] if Need.LOGITS in needs else [])]),
        head=Head.of(model) if distilled else None,
        before_head={side: kept_before_head(model, sides[side], places[side], pad=pad) for side in distilled},
        layer=layer,
        behind_layer={
            side: kept_behind_layer(model, sides[side], found, layer, pad=pad)
            for side, found in places.items()
            if layer is not None
        },
        shares=shares and can_share(model, sides["forget"], pad=pad),
    )


def _summed(model: Any, examples: Sequence[Tokenized], *, pad: int) -> Tensor:
    return torch.stack([log_p_K.sum() for log_p_K in label_log_p(model, examples, pad=pad)])
