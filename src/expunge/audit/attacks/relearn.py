"""Relearning: a little training brings back what was hidden, and would not bring back what is gone.

Hu et al. 2024, arXiv 2406.13356 (unrelated and partial data); Deeb and Roger 2024, arXiv 2410.08827 (half of the facts, tested
on the other half). The retrained model is trained beside it, since anybody can teach a model the forget set anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from expunge.audit.attacks import Given, Scene, Version, version_attack
from expunge.errors import ExpungeError
from expunge.examples import Example

_OF_WEIGHTS, _OF_AN_ADAPTER = 2e-5, 1e-3


@dataclass(frozen=True, kw_only=True)
class Relearn:
    """Train on a little, and ask again."""

    data: Literal["forget", "unrelated", "half"] = "forget"
    """What is learnt: the forget set; a few examples of others; or half of the forget people, the other half being asked."""
    epochs: int = 1
    """How often it is seen."""
    learning_rate: float | None = None
    """Learning rate; when not given 2e-5 for whole weights and 1e-3 for an adapter."""
    batch_size: int = 32
    """Examples a step, where there are so many."""
    unrelated: int = 10
    """How many examples of others are learnt, with `unrelated`."""


def halves(forget: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Half of the people to learn and the other half to ask; whole people, drawn by seed.

    Raises:
        ExpungeError: there is only one.
    """
    people = sorted({example.subject for example in forget})
    if len(people) < 2:
        raise ExpungeError("one person cannot be halved", remedy="give a forget set of at least two people, or --data forget")
    learnt = {*random.Random(seed).sample(people, len(people) // 2)}
    return [one for one in forget if one.subject in learnt], [one for one in forget if one.subject not in learnt]


def relearning_robustness(
    retrained_before: float, retrained_after: float, unlearned_before: float, unlearned_after: float
) -> float | None:
    """R = min((retrained after - before) / (unlearned after - before), 1), of any measure of what is known.

    Dorna et al. 2025 (OpenUnlearning), arXiv 2506.12618.

    Returns:
        In (-∞, 1]; higher is better: at 1 the unlearned model learns no faster than one that never knew. None where the
        unlearned model has learnt nothing, so that there is nothing to compare.
    """
    gained = unlearned_after - unlearned_before
    return min((retrained_after - retrained_before) / gained, 1.0) if gained > 0 else None


def asks(config: Relearn, given: Given) -> Sequence[Example]:
    """Everybody, or the half of the people that is not learnt."""
    return halves(given.forget, given.seed)[1] if config.data == "half" else given.forget


@version_attack(
    "relearn",
    Relearn,
    source="Hu et al. 2024, arXiv 2406.13356; Deeb and Roger 2024, arXiv 2410.08827",
    holds="the weights, the question, and the forget set, half of it, or examples of others",
    asks=asks,
)
def versions(config: Relearn, scene: Scene) -> Iterator[Version]:
    """The model as it is, and after training."""
    from expunge.models import load_model

    given = scene.given
    if config.data == "forget":
        learnt = list(given.forget)
    elif config.data == "half":
        learnt = halves(given.forget, given.seed)[0]
    else:
        learnt = random.Random(given.seed).sample(list(given.others), min(config.unrelated, len(given.others)))
    if not learnt:
        raise ExpungeError("there is nothing to relearn", remedy="give --others")
    yield Version("before", partial(load_model, scene.model))
    yield Version("after", partial(_relearnt, config, scene, learnt))


def _relearnt(config: Relearn, scene: Scene, learnt: Sequence[Example]) -> Any:
    """The model after training: an adapter's own weights, or all of them."""
    from expunge.batching import tokenize
    from expunge.models import load_model, load_tokenizer, resolve_base
    from expunge.progress import progress
    from expunge.training.finetuning import answer_loss
    from expunge.training.plan import plan_epochs, rounds
    from expunge.training.trainer import PlannedTrainer, Schedule

    tokenizer = load_tokenizer(scene.model)
    tokens = tokenize(learnt, tokenizer, max_seq_length=scene.max_seq_length)
    batch = min(config.batch_size, len(tokens))
    micro = min(batch, 4)
    plan = plan_epochs(
        [len(each.tokens) for each in tokens],
        extra=0,
        extra_share=0,
        epochs=config.epochs,
        batch_size=batch,
        micro_batch_size=micro,
        seed=scene.given.seed,
    )
    rate = config.learning_rate or (_OF_WEIGHTS if resolve_base(scene.model) == scene.model else _OF_AN_ADAPTER)
    steps = len(plan) // rounds(batch, micro)
    with progress("Relearning", steps) as bar:
        trainer = PlannedTrainer(
            load_model(scene.model, trainable=True),
            tokenizer,
            answer_loss,
            plan,
            tokens,
            schedule=Schedule(
                learning_rate=rate,
                warmup_steps=0,
                kind="constant_with_warmup",
                accumulate=rounds(batch, micro),
                checkpoint_steps=10**9,
                seed=scene.given.seed,
            ),
            directory=scene.work / "relearning",
            bar=bar,
        )
        trainer.run()
    trainer.drop_checkpoints()
    assert trainer.model is not None
    return trainer.model.eval()
