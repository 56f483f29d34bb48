"""What a fine-tuning learns from and is measured on, as files, as tokens, and in the order of its steps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expunge.errors import ExpungeError
from expunge.examples import Example, read_examples, refuse_overlap
from expunge.files import sha256
from expunge.processes import count
from expunge.progress import console

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.batching import Tokenized
    from expunge.recipes.finetune_config import FinetuneConfig
    from expunge.training.plan import MicroBatch

DEV_SUBSET = Path("datasets/dev/dev_subset.jsonl")
"""Where `expunge prepare temporal -o datasets` puts the subset for trials."""
_DEV_EXAMPLES = 32
"""So many of the training examples, and of each validation set, make a trial."""


class Part(NamedTuple):
    """A file and the examples taken from it."""

    path: Path
    examples: list[Example]


class FinetuneData(NamedTuple):
    """The sets of a fine-tuning."""

    learnt: list[Part]
    ordinary: list[Part]
    """One, or none."""
    validation: dict[str, Part]
    """By what the set is: `retain`, `unlearn`."""
    held: list[Part]
    """One, or none."""

    @property
    def examples(self) -> list[Example]:
        """What is learnt, without ordinary text."""
        return [example for part in self.learnt for example in part.examples]

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of every file, by its path."""
        parts = (*self.learnt, *self.ordinary, *self.validation.values(), *self.held)
        return {str(part.path): sha256(part.path) for part in parts}


def read_data(config: FinetuneConfig) -> FinetuneData:
    """Read the sets; for a trial a file of its own, or only some of each set, drawn from the seed.

    Raises:
        ExpungeError: nothing to learn was named, a file cannot be read, or what is held is learnt.
    """
    learnt = [path for path in (*config.data_file, config.retain_train, config.unlearn_train) if path is not None]
    chosen = config.dev and (config.dev_path is not None or not learnt)
    if chosen:
        learnt = [config.dev_path or DEV_SUBSET]
    if not learnt:
        raise ExpungeError(
            "no examples to learn were named", remedy="give --data-file, or --retain-train and --unlearn-train, or --dev"
        )

    def read(path: Path) -> Part:
        return Part(path, read_examples(path))

    data = FinetuneData(
        learnt=[read(path) for path in learnt],
        ordinary=[read(config.ordinary)] if config.ordinary else [],
        validation={
            name: read(path)
            for name, path in (("retain", config.retain_val), ("unlearn", config.unlearn_val))
            if path is not None
        },
        held=[read(config.held)] if config.held else [],
    )
    refuse_overlap(data.examples, [example for part in data.held for example in part.examples])
    if not config.dev:
        return data
    each = max(1, _DEV_EXAMPLES // len(data.learnt))
    return FinetuneData(
        # A file made for trials is taken whole.
        learnt=data.learnt if chosen else [_some(part, each, config.seed) for part in data.learnt],
        ordinary=[_some(part, _DEV_EXAMPLES, config.seed) for part in data.ordinary],
        validation={name: _some(part, _DEV_EXAMPLES, config.seed) for name, part in data.validation.items()},
        held=[_some(part, _DEV_EXAMPLES, config.seed) for part in data.held],
    )


def _some(part: Part, count: int, seed: int) -> Part:
    places = sorted(random.Random(f"{seed}/dev").sample(range(len(part.examples)), min(count, len(part.examples))))
    return part._replace(examples=[part.examples[place] for place in places])


class Plan(NamedTuple):
    """Which examples each step sees."""

    micro_batches: list[MicroBatch]
    rounds: int
    """Micro-batches a step in each process."""
    steps: int


def planned(config: FinetuneConfig, data: FinetuneData, tokens: Sequence[Tokenized]) -> Plan:
    """The whole course of training."""
    from expunge.training.plan import plan_epochs, rounds, with_held

    ordinary = sum(len(part.examples) for part in data.ordinary)
    size = min(config.step_size, len(tokens) - ordinary)
    micro = config.micro_batch_size or config.batch_size
    plan = plan_epochs(
        [len(example.tokens) for example in tokens],
        extra=ordinary,
        extra_share=config.ordinary_share,
        epochs=config.epochs,
        batch_size=size,
        micro_batch_size=micro,
        seed=config.seed,
        processes=count(),
    )
    for part in data.held:
        plan = with_held(plan, len(part.examples), share=config.held_share, seed=config.seed)
    each = rounds(size, micro, count())
    return Plan(plan, each, len(plan) // (each * count()))


class Tokens(NamedTuple):
    """The sets as the model reads them."""

    learnt: list[Tokenized]
    """With ordinary text at the end."""
    validation: dict[str, list[Tokenized]]
    truncated: int
    """Learnt examples that are cut off."""
    held: list[Tokenized]


def tokenised(data: FinetuneData, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> Tokens:
    """Every set in the model's own chat template; how many are cut off is said."""
    from expunge.batching import tokenize

    ordinary = [example for part in data.ordinary for example in part.examples]
    examples = [*data.examples, *ordinary]
    learnt = tokenize(examples, tokenizer, max_seq_length=max_seq_length)
    cut = [example.where for example, tokens in zip(examples, learnt, strict=True) if tokens.truncated]
    if cut:
        first = f" (first: {cut[0]})" if cut[0] else ""
        words = f"{len(cut)} of {len(learnt)} examples are cut off at {max_seq_length} tokens{first}."
        console.print(words, soft_wrap=True, markup=False)
    validation = {
        name: tokenize(part.examples, tokenizer, max_seq_length=max_seq_length) for name, part in data.validation.items()
    }
    held = [example for part in data.held for example in part.examples]
    return Tokens(learnt, validation, len(cut), tokenize(held, tokenizer, max_seq_length=max_seq_length))
