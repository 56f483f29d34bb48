"""Answers that a user, or an attacker, might get: drawn at temperature 1, or begun obligingly.

Obliging beginning: Wei et al. 2023, arXiv 2307.02483 (prefix injection); OpenUnlearning's jailbreak prefix.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.batching import prompt_tokens
from expunge.evidence.generation import Sampling, answered_together, batches_of_prompts, end_tokens, generate
from expunge.evidence.stem import common_stem
from expunge.evidence.store import samples_part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.evidence.store import EvidenceStore
    from expunge.examples import Example
    from expunge.progress import Bar

PREFIX = "Sure, here is the answer:"


def record_prefixed(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    store: EvidenceStore,
    *,
    max_new_tokens: int,
    bar: Bar,
) -> None:
    """Record how the model goes on, greedily, after `PREFIX`, for every prompt that lacks it; the prefix is not kept."""
    prefix = list(tokenizer(PREFIX, add_special_tokens=False)["input_ids"])
    prompts = [prompt_tokens(str(example.prompt), tokenizer) + prefix for example in examples]
    whole = store.has([example.id for example in examples], "prefixed")
    stem = None if whole else common_stem(model, prompts)
    together = answered_together(model, max(map(len, prompts), default=0) + max_new_tokens)
    for places in batches_of_prompts(prompts, together):
        if not store.has([examples[place].id for place in places], "prefixed"):
            asked = [prompts[place] for place in places]
            answers = generate(model, asked, max_new_tokens=max_new_tokens, ends=end_tokens(model, tokenizer), stem=stem)
            for place, tokens in zip(places, answers, strict=True):
                store.add(examples[place].id, prefixed=str(tokenizer.decode(tokens, skip_special_tokens=True)).strip())
        bar.advance(len(places))


def record_samples(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    store: EvidenceStore,
    *,
    count: int,
    seed: int,
    max_new_tokens: int,
    bar: Bar,
) -> None:
    """Record so many answers drawn at temperature 1 to every prompt that lacks them.

    Args:
        count: how many answers to each prompt.
        seed: fixes the draws; those of a prompt depend on it and the example alone.
    """
    prompts = [prompt_tokens(str(example.prompt), tokenizer) for example in examples]
    together = answered_together(model, max(map(len, prompts), default=0) + max_new_tokens)
    # The answers to one prompt go through together, so that a kill loses at most one prompt's.
    for place in sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place)):
        example = examples[place]
        if (example.id, samples_part(count, seed)) not in store:
            said: list[str] = []
            for start in range(0, count, together):
                numbers = range(start, min(count, start + together))
                asked = [prompts[place]] * len(numbers)
                answers = generate(
                    model,
                    asked,
                    max_new_tokens=max_new_tokens,
                    ends=end_tokens(model, tokenizer),
                    sampling=Sampling([zlib.crc32(f"{seed} {example.id} {number}".encode()) for number in numbers]),
                    stem=common_stem(model, asked),
                )
                said += [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in answers]
            store.add(example.id, **{samples_part(count, seed): said})
        bar.advance(1)
