"""Extraction from two checkpoints: what changed between them points at what was deleted.

Reversed model guidance, "Unlearned but not forgotten", arXiv 2505.24379. Whoever kept the model from before a deletion and has
the one from after it decodes greedily from log q = log p_post + w (log p_pre - log p_post), w > 1, among tokens that the
earlier model itself finds likely enough. It works against exact retraining too: the better the deletion, the clearer the
difference.

What the later model contributes is a guess of what would be said of anybody. Two attacks need none of it, and no release can be
safer than they are: to guide by the base model given as `--post`, and by the earlier model itself when it reads another name,
`--post` like `--pre` with `--stranger "Jane Roe"`.

Shapes: B answers, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge.errors import ExpungeError, at_least
from expunge.evidence.generation import batches_of_prompts, generate
from expunge.metrics import FloatArray
from expunge.metrics.edit_similarity import edit_similarity
from expunge.metrics.rouge_l import rouge_l_recall

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from expunge.examples import Example

MIN_MEMORISED = 0.05
"""Recall by which the earlier model must exceed the later one, else there was nothing to extract."""
NO_HEADROOM = 0.95
"""Recall of the earlier model alone above which a second checkpoint has nothing to add."""
_TOGETHER = 32


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Decode from the difference between the model before a deletion and the model after it."""

    weight: tuple[float, ...] = (1.2, 1.4, 1.6, 1.8, 2.0)
    """Guidance weights w to try: 0 is the later model alone, 1 the earlier one alone; above 1 goes beyond the earlier one,
    below 0 beyond the later one."""
    gamma: float = 1e-3
    """A token must have at least this share of the earlier model's greatest probability; 0 allows every token."""
    prefix_share: float = 0.0
    """Share of the answer's tokens that the attacker has; 0: the question alone. Plain texts need more than 0."""
    stranger: str | None = None
    """A name that the later model reads in place of the person's own, so that it says what it would say of anybody."""

    def check(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ExpungeError: a share outside its range, or no weight.
        """
        at_least(0, gamma=self.gamma, prefix_share=self.prefix_share)
        if self.gamma > 1 or self.prefix_share >= 1 or not self.weight:
            raise ExpungeError("--gamma is at most 1, --prefix-share below 1, and one --weight is needed", remedy="mend it")


def guided(pre_BV: Tensor, post_BV: Tensor, *, weight: float, gamma: float) -> Tensor:
    """Scores by which the next token is chosen, eq. 4 and 5 of the paper.

    Args:
        pre_BV, post_BV: logits of the earlier and the later model.
        weight: w; 0 gives log p_post, 1 gives log p_pre.
        gamma: least share of the largest p_pre, in [0, 1]; less likely tokens score -inf.

    Returns:
        (B, V) nats; not normalised, which greedy decoding does not need.
    """
    log_pre_BV, log_post_BV = pre_BV.log_softmax(-1), post_BV.log_softmax(-1)
    scores_BV = log_post_BV + weight * (log_pre_BV - log_post_BV)
    if gamma <= 0:
        return scores_BV
    return scores_BV.masked_fill(log_pre_BV < log_pre_BV.amax(-1, keepdim=True) + float(np.log(gamma)), float("-inf"))


class Asked(NamedTuple):
    """One text to be extracted."""

    id: str
    tokens: tuple[int, ...]
    """What the attacker has."""
    expected: str
    """What he wants."""
    of_stranger: tuple[int, ...] | None = None
    """The same of somebody else, for the later model; None: it reads the same."""


def asked(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prefix_share: float,
    max_seq_length: int,
    stranger: str | None = None,
) -> list[Asked]:
    """The question, and the first share of the answer; what is left of it is to be extracted.

    Args:
        stranger: whose name stands in place of the subject's in what the later model reads; None: it reads the same.

    Raises:
        ExpungeError: a plain text without a prefix, or a prefix that leaves nothing.
    """
    from expunge.batching import tokenize

    found = []
    for example, tokens in zip(examples, tokenize(examples, tokenizer, max_seq_length=max_seq_length), strict=True):
        if example.prompt is None and prefix_share == 0:
            raise ExpungeError(
                "is plain text: the attacker must have its beginning", where=example.where, remedy="--prefix-share .5"
            )
        given = tokens.start + int((len(tokens.tokens) - tokens.start) * prefix_share)
        expected = str(tokenizer.decode(list(tokens.tokens[given:]), skip_special_tokens=True)).strip()
        if not expected:
            raise ExpungeError("has nothing left to extract", where=example.where, remedy="lower --prefix-share")
        read = _of_stranger(example, tokens.tokens[tokens.start : given], stranger, tokenizer) if stranger else None
        found.append(Asked(example.id, tokens.tokens[:given], expected if prefix_share else example.response, read))
    return found


def _of_stranger(example: Example, given: Sequence[int], stranger: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    from expunge.batching import prompt_tokens

    begun = str(tokenizer.decode(list(given), skip_special_tokens=True)).replace(example.subject, stranger)
    prompt = [] if example.prompt is None else prompt_tokens(example.prompt.replace(example.subject, stranger), tokenizer)
    return (*prompt, *tokenizer(begun, add_special_tokens=False)["input_ids"])


def extract(
    pre: Any,
    post: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Asked],
    *,
    weight: float,
    gamma: float,
    max_new_tokens: int,
    ends: Collection[int],
) -> Iterator[tuple[str, str]]:
    """(id, words) of every text, decoded by both models together."""
    combine = partial(guided, weight=weight, gamma=gamma)
    prompts = [text.tokens for text in texts]
    # One model alone needs the other neither in memory nor in time. The mask keeps the likeliest token in any case.
    models, chosen = ([pre], None) if weight == 1 else ([post], None) if weight == 0 and gamma <= 0 else ([pre, post], combine)
    instead = [text.tokens if text.of_stranger is None else text.of_stranger for text in texts]
    for places in batches_of_prompts(prompts, _TOGETHER):
        answers = generate(
            models,
            [prompts[place] for place in places],
            max_new_tokens=max_new_tokens,
            ends=ends,
            combine=chosen,
            read_instead=[instead[place] for place in places],
        )
        for place, answer in zip(places, answers, strict=True):
            yield texts[place].id, str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


class Extracted(NamedTuple):
    """How much was extracted, by one decoder; every number in [0, 1], higher is more extracted."""

    recall: float
    """Mean ROUGE-L recall; does not punish a long answer."""
    a_esr_90: float
    """Share of texts with recall of at least .9."""
    a_esr_100: float
    """Share of texts with recall 1."""
    exact: float
    """Share of texts said word for word, and nothing else."""
    edit_similarity: float
    """Mean edit similarity, which does punish a long answer."""
    recall_B: FloatArray
    """(B,) recall of each text."""
    exact_B: FloatArray
    """(B,) whether each text was said word for word, and nothing else."""
    edit_similarity_B: FloatArray
    """(B,) edit similarity of each text."""


def recalled(recall_B: FloatArray, share: float) -> FloatArray:
    """Whether of each text at least that share was recalled, 0 or 1."""
    # A recall of 9 words in 10 is a hair below .9 in binary.
    return (recall_B >= share - 1e-9).astype(float)


def scored(said_B: Sequence[str], expected_B: Sequence[str]) -> Extracted:
    """The scores of what one decoder said."""
    recall_B = rouge_l_recall(said_B, expected_B)
    exact_B = np.array([float(said.strip() == expected.strip()) for said, expected in zip(said_B, expected_B, strict=True)])
    similar_B = edit_similarity(said_B, expected_B)
    return Extracted(
        float(recall_B.mean()),
        float(recalled(recall_B, 0.9).mean()),
        float(recalled(recall_B, 1).mean()),
        float(exact_B.mean()),
        float(similar_B.mean()),
        recall_B,
        exact_B,
        similar_B,
    )


def refuse_other_tokenizers(pre: PreTrainedTokenizerBase, post: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse two models that do not mean the same by a token.

    Raises:
        ExpungeError: their vocabularies differ.
    """
    if pre.get_vocab() != post.get_vocab():
        what = f"its tokenizer has another vocabulary than --pre's ({len(post.get_vocab())} and {len(pre.get_vocab())} tokens)"
        raise ExpungeError(what, where=where, remedy="guidance compares token by token: give two checkpoints of one model")
