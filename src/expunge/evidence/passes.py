"""The two passes that make evidence: one teacher-forced, one greedy.

Batches are composed from the whole set and never from what is left of it: a resumed pass then pads, multiplies and rounds
exactly as an undisturbed one does, and ends with the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.batching import Tokenized, batches_by_length, collate, prompt_tokens
from expunge.evidence.generation import answered_together, batches_of_prompts, end_tokens, generate
from expunge.evidence.room import tokens_together
from expunge.evidence.scoring import score_labels
from expunge.evidence.stem import Stem, common_stem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from expunge.evidence.store import EvidenceStore
    from expunge.examples import Example
    from expunge.progress import Bar

# Of a processor. Larger ones gain nothing on a few cores and cost memory: 1,024 tokens have 200 MB of logits at 49,152 words.
_MOST_TOKENS = 1024


def record_scores(model: nn.Module, examples: Sequence[Tokenized], store: EvidenceStore, *, pad: int, bar: Bar) -> None:
    """Record log-probabilities, argmax hits, entropies and variances under teacher forcing of examples that have none yet.

    Raises:
        ExpungeError: the disk is full; what was recorded stays.
    """
    import torch

    stem: Stem | None = None
    if not store.has([example.id for example in examples], "scores"):
        stem = common_stem(model, [example.tokens[: example.start] for example in examples])
    for batch in batches_by_length(
        [len(example.tokens) for example in examples], most_tokens=tokens_together(model, _MOST_TOKENS)
    ):
        members = [examples[place] for place in batch.places]
        if not all((example.id, "scores") in store for example in members):
            with torch.inference_mode():
                scores = score_labels(model, to_device(model, collate(members, pad)), hits=True, moments=True, stem=stem)
            assert scores.hits_BK is not None
            assert scores.entropy_BK is not None
            assert scores.variance_BK is not None
            for row, example in enumerate(members):
                if (example.id, "scores") in store:
                    continue  # with other answers to the same question, perhaps: it is not said twice
                labelled_K = scores.labelled_BK[row]
                store.add_scores(
                    example.id,
                    scores.log_p_BK[row][labelled_K].cpu().numpy(),
                    scores.hits_BK[row][labelled_K].cpu().numpy(),
                    scores.entropy_BK[row][labelled_K].cpu().numpy(),
                    scores.variance_BK[row][labelled_K].cpu().numpy(),
                )
        bar.advance(len(members))


class Unanswered(NamedTuple):
    """Questions of one set, and where their answers go."""

    examples: Sequence[Example]
    store: EvidenceStore
    max_new_tokens: int
    """Where an answer that does not end by itself is cut."""

    @property
    def known(self) -> list[bool]:
        """Of each question, whether its answer is recorded."""
        return [(example.id, "generated") in self.store for example in self.examples]


def record_answers(model: Any, tokenizer: PreTrainedTokenizerBase, sets: Sequence[Unanswered], *, bar: Bar) -> None:
    """Record the greedy answer to every prompt that has none yet.

    Questions of all sets share batches: a step takes hardly longer for twenty answers than for four.

    Args:
        model: a causal language model.
        sets: whom to ask about. One that is whole takes no part, unless another is left half-way: its batches held both.

    Raises:
        ExpungeError: the disk is full; what was recorded stays.
    """
    waiting = [each for each in sets if not all(each.known)]
    asked = sets if any(any(each.known) for each in waiting) else waiting
    bar.advance(sum(len(each.examples) for each in sets) - sum(len(each.examples) for each in asked))
    if not waiting:
        return
    questions = [(example, each) for each in asked for example in each.examples]
    prompts = [prompt_tokens(str(example.prompt), tokenizer) for example, _ in questions]
    most = [each.max_new_tokens for _, each in questions]
    stem, ends = common_stem(model, prompts), end_tokens(model, tokenizer)
    for places in batches_of_prompts(prompts, answered_together(model, max(map(len, prompts)) + max(most))):
        missing = [(questions[place][0].id, "generated") not in questions[place][1].store for place in places]
        if any(missing):
            answers = generate(
                model,
                [prompts[place] for place in places],
                max_new_tokens=[most[place] for place in places],
                ends=ends,
                stem=stem,
            )
            for place, tokens, new in zip(places, answers, missing, strict=True):
                if new:
                    example, each = questions[place]
                    each.store.add_answer(example.id, str(tokenizer.decode(tokens, skip_special_tokens=True)).strip())
        bar.advance(len(places))


def mean_loss(model: nn.Module, examples: Sequence[Tokenized], *, pad: int) -> float:
    """Mean over examples of the mean negative log-likelihood of their labelled tokens, nats a token; lower is better known."""
    return float(losses(model, examples, pad=pad).mean())


def losses(model: nn.Module, examples: Sequence[Tokenized], *, pad: int) -> Any:
    """Mean negative log-likelihood of each example's labelled tokens, nats a token; a float tensor, shape (examples,)."""
    import torch

    return torch.stack([-log_p_K.mean() for log_p_K in label_log_p(model, examples, pad=pad)])


def label_log_p(model: nn.Module, examples: Sequence[Tokenized], *, pad: int) -> list[Tensor]:
    """Log-probability of each labelled token, nats: a float tensor of shape (labels,) for each example."""
    import torch

    found: dict[int, Tensor] = {}
    stem = common_stem(model, [example.tokens[: example.start] for example in examples])
    for batch in batches_by_length(
        [len(example.tokens) for example in examples], most_tokens=tokens_together(model, _MOST_TOKENS)
    ):
        with torch.inference_mode():
            scores = score_labels(model, to_device(model, collate([examples[place] for place in batch.places], pad)), stem=stem)
        for row, place in enumerate(batch.places):
            # A copy, which may be computed with in training too.
            found[place] = scores.log_p_BK[row][scores.labelled_BK[row]].cpu().clone()
    return [found[place] for place in range(len(examples))]


def to_device(model: nn.Module, batch: Any) -> Any:
    """A batch of tensors where the model's weights are."""
    device = next(model.parameters()).device
    return type(batch)(*(tensor.to(device) for tensor in batch))
