"""Several continuations of one question: the question is read once and remembered, the continuations are read after it.

Paraphrases, perturbed answers and options share all that stands before them, which with a chat template and a short answer
is most of the tokens. The test holds this path to the plain one, which reads everything every time.

Shapes: Q questions of a batch, P tokens of the longest prefix less its last, R continuations of all of them, C tokens of the
longest continuation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.batching import Tokenized
from expunge.batching.batches import IGNORED
from expunge.evidence.passes import label_log_p
from expunge.evidence.scoring import score_logits
from expunge.evidence.stem import Stem, remembers

if TYPE_CHECKING:
    from torch import Tensor

_MOST_TOKENS = 2048


class Question(NamedTuple):
    """A prefix and what may follow it."""

    prefix: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    """At least one; each of at least one token."""

    @property
    def tokens(self) -> int:
        """How many tokens must be read, before padding."""
        return len(self.prefix) + len(self.continuations) * max(map(len, self.continuations))


def batches_of_questions(questions: Sequence[Question]) -> list[list[int]]:
    """Places of the questions that go through the model together, neighbours in length, the longest first."""
    lengths = [(len(question.prefix), max(map(len, question.continuations))) for question in questions]
    order = sorted(range(len(questions)), key=lambda place: (-lengths[place][1], -lengths[place][0], place))
    batches: list[list[int]] = []
    tokens = 0
    for place in order:
        if not batches or tokens + questions[place].tokens > _MOST_TOKENS:
            batches.append([])
            tokens = 0
        batches[-1].append(place)
        tokens += questions[place].tokens
    return batches


def continuation_log_p(
    model: Any, questions: Sequence[Question], *, pad: int, shared: bool = True, stem: Stem | None = None
) -> list[list[Tensor]]:
    """Log-probability of each token of each continuation, nats.

    Args:
        model: a causal language model.
        questions: what goes through it together, see `batches_of_questions`.
        pad: the token of the padding.
        shared: read each prefix once. False, or a model that cannot remember: read everything every time.
        stem: what all prefixes begin with, with two tokens left of each, if it was read already.

    Returns:
        For each question, for each continuation, a float tensor of shape (tokens,).
    """
    found: list[Tensor] | None = None
    if shared and remembers(model) and min(len(question.prefix) for question in questions) > 1:
        found = _after_prefixes(model, questions, pad, stem)
    if found is None:
        whole = [Tokenized("", question.prefix + end, len(question.prefix), False) for question, end in _each(questions)]
        found = label_log_p(model, whole, pad=pad)
    rows = iter(found)
    return [[next(rows) for _ in question.continuations] for question in questions]


def _after_prefixes(model: Any, questions: Sequence[Question], pad: int, stem: Stem | None) -> list[Tensor] | None:
    """The same for all continuations in a row; None: the model gave nothing to remember."""
    import torch

    device = next(model.parameters()).device
    read = stem.length if stem is not None else 0
    longest = max(len(question.prefix) for question in questions) - 1 - read
    tokens_QP = torch.full((len(questions), longest), pad)
    mask_QP = torch.zeros_like(tokens_QP)
    for row, question in enumerate(questions):
        # On the left, so that what follows stands beside it. The last token is read with each continuation: it predicts it.
        head = question.prefix[read:-1]
        tokens_QP[row, longest - len(head) :] = torch.tensor(head)
        mask_QP[row, longest - len(head) :] = 1
    mask_QP = torch.cat([torch.ones(len(questions), read, dtype=torch.long), mask_QP], 1)
    rows = [row for row, question in enumerate(questions) for _ in question.continuations]
    width = max(len(end) for _, end in _each(questions))
    tokens_RC = torch.full((len(rows), width), pad)
    labels_RC = torch.full_like(tokens_RC, IGNORED)
    for row, (question, end) in enumerate(_each(questions)):
        tokens_RC[row, : len(end)] = torch.tensor((question.prefix[-1], *end[:-1]))
        labels_RC[row, : len(end)] = torch.tensor(end)
    rows_R = torch.tensor(rows)
    mask_RT = torch.cat([mask_QP[rows_R], (labels_RC != IGNORED).long()], 1)
    with torch.inference_mode():
        past = model(
            input_ids=tokens_QP.to(device),
            attention_mask=mask_QP.to(device),
            position_ids=_positions(mask_QP)[:, read:].to(device),
            past_key_values=stem.past(len(questions)) if stem is not None else None,
            logits_to_keep=1,
            use_cache=True,
        ).past_key_values
        if past is None:
            return None
        past.reorder_cache(rows_R.to(device))
        logits_RCV = model(
            input_ids=tokens_RC.to(device),
            attention_mask=mask_RT.to(device),
            position_ids=_positions(mask_RT)[:, read + longest :].to(device),
            past_key_values=past,
            use_cache=True,
        ).logits
        scores = score_logits(logits_RCV, labels_RC.to(device))
    return [log_p_C[labelled_C].cpu() for log_p_C, labelled_C in zip(scores.log_p_BK, scores.labelled_BK, strict=True)]


def _positions(mask_QT: Tensor) -> Tensor:
    return (mask_QT.cumsum(1) - 1).clamp(min=0)


def _each(questions: Sequence[Question]) -> Iterator[tuple[Question, tuple[int, ...]]]:
    for question in questions:
        for end in question.continuations:
            yield question, end
