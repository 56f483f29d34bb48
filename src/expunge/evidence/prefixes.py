"""Several continuations of one question, in one pass: the question is read once, and so is what continuations begin with alike.

Paraphrases, perturbed answers and options share all that stands before them, and often their first words. Together they are a
tree that grows from the question: it is laid out in one row, and each token sees the question and the tokens on its own branch.
The test holds this path to the plain one, which reads everything every time.

Shapes: Q questions of a batch, T tokens of a row: P of the longest prefix, then N of the largest tree; K tokens that predict
others, M tokens that are predicted, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.batching import Tokenized
from expunge.evidence.passes import label_log_p
from expunge.evidence.room import tokens_together
from expunge.evidence.scoring import Distributions, distributions, predicted_log_p
from expunge.evidence.stem import Stem, reads_by_mask

if TYPE_CHECKING:
    from torch import Tensor

# Trees differ more in size than sequences do: with twice as many, a twentieth of a few dozen questions is padding.
_MOST_TOKENS = 512


class Question(NamedTuple):
    """A prefix and what may follow it."""

    prefix: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    """At least one; each of at least one token."""
    answer: tuple[int, ...] | None = None
    """One more, of which more than the likelihood is wanted."""

    @property
    def ends(self) -> tuple[tuple[int, ...], ...]:
        """All that may follow, the answer last."""
        return self.continuations if self.answer is None else (*self.continuations, self.answer)


class Scored(NamedTuple):
    """What the model thinks of a question's continuations."""

    log_p: list[Tensor]
    """Of each continuation, log-probability of each of its tokens, nats."""
    answer: Distributions | None
    """The same and more of its answer."""


def batches_of_questions(questions: Sequence[Question], model: Any = None) -> list[list[int]]:
    """Places of the questions that go through the model together, neighbours in length, the longest first.

    Args:
        model: who will be asked: a GPU takes more together. None: a model on a processor.
    """
    limit = _MOST_TOKENS if model is None else tokens_together(model, _MOST_TOKENS)
    lengths = [(len(_tree(question.ends).tokens), len(question.prefix)) for question in questions]
    order = sorted(range(len(questions)), key=lambda place: (-lengths[place][0], -lengths[place][1], place))
    batches: list[list[int]] = []
    for place in order:
        together = [*batches[-1], place] if batches else []
        most = [max(lengths[each][side] for each in together) for side in (0, 1)] if together else []
        if together and len(together) * sum(most) <= limit:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def continuation_log_p(
    model: Any, questions: Sequence[Question], *, pad: int, shared: bool = True, stem: Stem | None = None
) -> list[list[Tensor]]:
    """Log-probability of each token of each continuation, nats.

    Args:
        model: a causal language model.
        questions: what goes through it together, see `batches_of_questions`.
        pad: the token of the padding.
        shared: read what is shared once. False, or a model that cannot: read everything every time.
        stem: what all prefixes begin with, with a token left of each, if it was read already.

    Returns:
        For each question, for each continuation, a float tensor of shape (tokens,).
    """
    longest = max(len(question.prefix) + len(end) for question, end in _each(questions))
    if shared and reads_by_mask(model, longest):
        asked = [question._replace(answer=None) for question in questions]
        return [each.log_p for each in question_scores(model, asked, pad=pad, stem=stem)]
    whole = [Tokenized("", question.prefix + end, len(question.prefix), False) for question, end in _each(questions)]
    rows = iter(label_log_p(model, whole, pad=pad))
    return [[next(rows) for _ in question.continuations] for question in questions]


class _Tree(NamedTuple):
    """What must be read after a prefix; of each continuation all but its last token, which is predicted alone."""

    tokens: list[int]
    parents: list[int]
    """Place of the token before each, in `tokens`; -1: the prefix."""
    before: list[list[int]]
    """For each continuation, place of the token before each of its tokens, likewise."""


def _tree(continuations: Sequence[Sequence[int]]) -> _Tree:
    tree = _Tree([], [], [])
    children: dict[tuple[int, int], int] = {}
    for end in continuations:
        before = [-1]
        for token in end[:-1]:
            key = (before[-1], token)
            if key not in children:
                children[key] = len(tree.tokens)
                tree.tokens.append(token)
                tree.parents.append(before[-1])
            before.append(children[key])
        tree.before.append(before)
    return tree


def question_scores(model: Any, questions: Sequence[Question], *, pad: int, stem: Stem | None = None) -> list[Scored]:
    """Log-probabilities of continuations, and all about answers, each question in one row.

    Args:
        model: one that `reads_by_mask`.
        questions, pad, stem: see `continuation_log_p`.
    """
    import torch

    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    read = stem.length if stem is not None else 0
    trees = [_tree(question.ends) for question in questions]
    longest = max(len(question.prefix) for question in questions) - read
    size = longest + max(len(tree.tokens) for tree in trees)
    tokens_QT = torch.full((len(questions), size), pad)
    positions_QT = torch.zeros_like(tokens_QT)
    # Each token sees itself, also where it is padding: one that saw nothing would be NaN. All see the stem.
    sees_QTT = torch.eye(size, dtype=torch.bool).repeat(len(questions), 1, 1)
    for row, (question, tree) in enumerate(zip(questions, trees, strict=True)):
        # On the left, so that the tree stands beside it.
        start, end = longest + read - len(question.prefix), longest + len(tree.tokens)
        tokens_QT[row, start:end] = torch.tensor([*question.prefix[read:], *tree.tokens])
        positions_QT[row, start:longest] = torch.arange(read, len(question.prefix))
        sees_QTT[row, start:longest, start:longest] = torch.ones((longest - start,) * 2, dtype=torch.bool).tril()
        for place, parent in enumerate(tree.parents, longest):
            # A parent stands before its children.
            sees_QTT[row, place, :place] = sees_QTT[row, longest + parent, :place]
            positions_QT[row, place] = positions_QT[row, longest + parent] + 1
    sees_QTT = torch.cat([torch.ones(len(questions), size, read, dtype=torch.bool), sees_QTT], 2)
    mask_QTT = torch.zeros(sees_QTT.shape, dtype=dtype).masked_fill_(~sees_QTT, torch.finfo(dtype).min)
    kept = size - longest + 1

    def ends(answers: bool) -> tuple[Tensor, Tensor, list[int]]:
        """Where the tokens of continuations, or of answers, are predicted; the tokens; how many each has."""
        chosen = [
            (row, before, end)
            for row, (question, tree) in enumerate(zip(questions, trees, strict=True))
            for number, (before, end) in enumerate(zip(tree.before, question.ends, strict=True))
            if answers == (number == len(question.continuations))
        ]
        places_M = torch.tensor([row * kept + place + 1 for row, before, _ in chosen for place in before], dtype=torch.long)
        targets_M = torch.tensor([token for _, _, end in chosen for token in end], dtype=torch.long)
        return places_M.to(device), targets_M.to(device), [len(end) for _, _, end in chosen]

    with torch.inference_mode():
        logits_QKV = model(
            input_ids=tokens_QT.to(device),
            attention_mask=mask_QTT[:, None].to(device),
            position_ids=positions_QT.to(device),
            past_key_values=stem.past(len(questions)) if stem is not None else None,
            logits_to_keep=kept,
            use_cache=stem is not None,
        ).logits
        logits_NV = logits_QKV.flatten(0, 1)
        places_M, targets_M, lengths = ends(answers=False)
        log_p = iter(predicted_log_p(logits_NV, places_M, targets_M).cpu().split(lengths))
        places_M, targets_M, lengths = ends(answers=True)
        parts = [part_M.cpu().split(lengths) for part_M in distributions(logits_NV, places_M, targets_M)]
        answers = iter(Distributions(*each) for each in zip(*parts, strict=True))
    return [
        Scored([next(log_p) for _ in question.continuations], None if question.answer is None else next(answers))
        for question in questions
    ]


def _each(questions: Sequence[Question]) -> Iterator[tuple[Question, tuple[int, ...]]]:
    for question in questions:
        for end in question.continuations:
            yield question, end
