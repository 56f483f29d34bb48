"""The one scoring kernel: log-probabilities of labelled tokens, the output head applied around those positions alone.

Losses, evidence and attacks all come through here, with or without gradients.

Shapes: B examples, T tokens, K positions from the batch's first labelled token on, V the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expunge.batching.batches import IGNORED, TokenBatch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.evidence.stem import Stem


class LabelScores(NamedTuple):
    """What the model thinks of the labelled tokens of a batch."""

    log_p_BK: Tensor
    """Log-probability of each labelled token, nats; 0 where there is no label."""
    hits_BK: Tensor | None
    """Whether the label is the most likely token; False where there is no label. None if not asked for."""
    labelled_BK: Tensor
    """Whether there is a label."""
    labels_BK: Tensor
    """The labels, -100 where there is none."""
    logits_BKV: Tensor | None = None
    """What was asked of every token of the vocabulary. None if not asked for."""
    entropy_BK: Tensor | None = None
    """Entropy of the distribution each label was drawn from, nats: minus the mean of log p under it. None if not asked for."""
    variance_BK: Tensor | None = None
    """Variance of log p under that distribution, nats²: Σ p·log²p less the mean's square. None if not asked for."""

    @property
    def log_p_B(self) -> Tensor:
        """Summed log-probability of each answer, nats."""
        return self.log_p_BK.sum(1)

    @property
    def tokens_B(self) -> Tensor:
        """How many tokens of each example are labelled."""
        return self.labelled_BK.sum(1)


def score_labels(
    model: nn.Module,
    batch: TokenBatch,
    *,
    hits: bool = False,
    moments: bool = False,
    logits: bool = False,
    stem: Stem | None = None,
) -> LabelScores:
    """Score the labelled tokens of a batch in one teacher-forced pass.

    Args:
        hits: whether each label is the most likely token is wanted too.
        moments: entropy and variance of each label's distribution are wanted too.
        logits: the logits themselves are wanted too.
        stem: what every row begins with, before its first label, read already; None: nothing is.

    Raises:
        ValueError: the batch has no label at all.
    """
    import torch

    labelled_T = (batch.labels_BT[:, 1:] != IGNORED).any(0)
    if not labelled_T.any():
        raise ValueError("no token of this batch is labelled")
    # A label at position t is predicted at t-1. The head is a fifth of a small model's work, so the prompt is spared it.
    first = int(labelled_T.nonzero()[0])
    labels_BK = batch.labels_BT[:, first + 1 :]
    read = stem.length if stem is not None else 0
    kept_K = torch.arange(first, batch.labels_BT.shape[1] - 1, device=batch.labels_BT.device) - read
    remembered = {} if stem is None else {"past_key_values": stem.past(len(batch.input_ids_BT))}
    logits_BKV = model(
        input_ids=batch.input_ids_BT[:, read:],
        attention_mask=batch.attention_mask_BT,
        logits_to_keep=kept_K,
        use_cache=stem is not None,
        **remembered,
    ).logits
    return score_logits(logits_BKV, labels_BK, hits=hits, moments=moments, logits=logits)


def score_logits(
    logits_BKV: Tensor, labels_BK: Tensor, *, hits: bool = False, moments: bool = False, logits: bool = False
) -> LabelScores:
    """Score labels by the logits that predict them: position k of both speaks of the same token.

    Args:
        logits_BKV: of any floating type; reckoned with in float32.
        labels_BK: token ids, -100 where there is no label.
        hits, moments, logits: what else is wanted, see `score_labels`.
    """
    import torch.nn.functional as F

    labelled_BK = labels_BK != IGNORED
    kept_BKV = logits_BKV if logits else None
    if moments:
        places_N = labelled_BK.flatten().nonzero()[:, 0]
        found = distributions(logits_BKV.flatten(0, 1), places_N, labels_BK[labelled_BK])
        # Back to where each label stands.
        log_p_BK, hit_BK, entropy_BK, variance_BK = (
            each_N.new_zeros(labelled_BK.numel()).index_copy(0, places_N, each_N).view_as(labels_BK) for each_N in found
        )
        hits_BK = hit_BK if hits else None
        return LabelScores(log_p_BK, hits_BK, labelled_BK, labels_BK, kept_BKV, entropy_BK, variance_BK)
    log_p_BK = -F.cross_entropy(
        logits_BKV.flatten(0, 1).float(), labels_BK.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels_BK)
    hits_BK = (logits_BKV.argmax(-1) == labels_BK) & labelled_BK if hits else None
    return LabelScores(log_p_BK, hits_BK, labelled_BK, labels_BK, kept_BKV)


def predicted_log_p(logits_NV: Tensor, places_M: Tensor, targets_M: Tensor) -> Tensor:
    """Log-probability of each target token under the logits that stand at its place, nats, (M,)."""
    import torch

    rows = _rows_together(logits_NV)
    return torch.cat(
        [
            logits_NV[places].float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
            for places, targets in zip(places_M.split(rows), targets_M.split(rows), strict=True)
        ]
    )


def _rows_together(like: Tensor) -> int:
    # A row of a large vocabulary is half a megabyte, and three of each are needed at once. A GPU wants more to do than that.
    return 1024 if like.device.type == "cuda" else 64


class Distributions(NamedTuple):
    """Of each label, and of the distribution it was drawn from; see `LabelScores`."""

    log_p_N: Tensor
    hits_N: Tensor
    entropy_N: Tensor
    variance_N: Tensor


def distributions(logits_MV: Tensor, places_N: Tensor, labels_N: Tensor) -> Distributions:
    """Everything about labels, from one normalisation of each row.

    Args:
        logits_MV: rows of logits, of any floating type; reckoned with in float32.
        places_N: the row that predicts each label.
        labels_N: token ids.
    """
    import torch

    found, rows = [], _rows_together(logits_MV)
    for places_R, labels_R in zip(places_N.split(rows), labels_N.split(rows), strict=True):
        logits_RV = logits_MV[places_R]
        hits_R = logits_RV.argmax(-1) == labels_R
        log_p_RV = logits_RV.float().log_softmax(-1)
        log_p_R = log_p_RV.gather(1, labels_R[:, None])[:, 0]
        # Words that are ruled out have probability 0 and must not make 0 · ∞ of it.
        log_p_RV = log_p_RV.clamp(min=-1e4)
        p_RV = log_p_RV.exp()
        mean_R = torch.linalg.vecdot(p_RV, log_p_RV)
        # Around the mean: the difference of two squares would lose the small variance of a sure distribution.
        variance_R = torch.linalg.vecdot(p_RV, (log_p_RV - mean_R[:, None]).square_())
        found.append(Distributions(log_p_R, hits_R, -mean_R, variance_R))
    return Distributions(*map(torch.cat, zip(*found, strict=True)))
