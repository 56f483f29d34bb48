"""What an unlearning forgets, keeps and is measured on: as files, as tokens, and in the order of its steps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from expunge.errors import ExpungeError
from expunge.examples import Example, read_examples, refuse_overlap
from expunge.files import sha256
from expunge.processes import count
from expunge.progress import console
from expunge.runs import Run, check_place
from expunge.training.objective import Need

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.batching import Tokenized
    from expunge.ledger.recorded import RecordedImpacts
    from expunge.recipes.unlearn_config import UnlearnConfig
    from expunge.training.objective import Method
    from expunge.training.plan import MicroBatch

T = TypeVar("T")


class UnlearnData(NamedTuple):
    """The sets of an unlearning; those that were not given are empty."""

    forget: list[Example]
    retain: list[Example]
    holdout: list[Example]
    ordinary: list[Example]
    kept: list[Example]
    """Forgotten earlier."""
    fingerprints: dict[str, str]
    """SHA-256 of every file, by its path."""


def read_sets(config: UnlearnConfig, method: Method, method_config: Any) -> UnlearnData:
    """Read the sets and hold them against each other.

    Raises:
        ExpungeError: one cannot be read, is missing, or shares a person with another that it must not.
    """
    if config.retain is None and Need.RETAIN in method.needs:
        raise ExpungeError(f"{method.name} needs examples that must stay, and none were named", remedy="give --retain")

    def read(path: Path | None) -> list[Example]:
        return [] if path is None else read_examples(path)

    forget, retain, holdout, ordinary = map(read, (config.forget, config.retain, config.holdout, config.ordinary))
    kept = [example for path in config.keep_forgotten for example in read_examples(path)]
    refuse_overlap(forget, retain)
    refuse_overlap([*forget, *retain], holdout)
    # Who is in both forget sets is forgotten again; who is to stay cannot have been forgotten.
    refuse_overlap(kept, [*retain, *holdout])
    again = {example.id for example in forget}
    refusals = getattr(method_config, "refusals", None)
    files = (config.forget, config.retain, config.holdout, config.ordinary, *config.keep_forgotten, refusals)
    return UnlearnData(
        forget,
        retain,
        holdout,
        ordinary,
        [example for example in kept if example.id not in again],
        {str(path): sha256(path) for path in files if path is not None},
    )


class UnlearnTokens(NamedTuple):
    """The sets as the model reads them."""

    forget: list[Tokenized]
    retain: list[Tokenized]
    holdout: list[Tokenized]
    kept: list[Tokenized]
    retain_sample: list[Tokenized]
    """What utility is measured on."""
    ordinary_sample: list[Tokenized]

    @property
    def sides(self) -> dict[str, list[Tokenized]]:
        """What is trained on, by side."""
        return {"forget": self.forget, "retain": self.retain, "kept": self.kept}


def tokenised(config: UnlearnConfig, data: UnlearnData, tokenizer: PreTrainedTokenizerBase) -> UnlearnTokens:
    """Every set in the model's own chat template; of those that only utility is measured on, some."""
    from expunge.batching import tokenize

    forget, retain, holdout, kept, ordinary = (
        tokenize(examples, tokenizer, max_seq_length=config.max_seq_length)
        for examples in (data.forget, data.retain, data.holdout, data.kept, _some(data.ordinary, config))
    )
    return UnlearnTokens(forget, retain, holdout, kept, _some(retain, config), ordinary)


def _some(examples: Sequence[T], config: UnlearnConfig) -> list[T]:
    most = min(config.eval_examples, len(examples))
    places = random.Random(f"{config.seed}/eval").sample(range(len(examples)), most)
    return [examples[place] for place in sorted(places)]


class UnlearnPlan(NamedTuple):
    """Which examples each step sees."""

    micro_batches: list[MicroBatch]
    rounds: int
    """Micro-batches a step in each process."""
    batch_size: int


def planned(config: UnlearnConfig, method: Method, tokens: UnlearnTokens, *, steps: int | None = None) -> UnlearnPlan:
    """The whole course of unlearning.

    Args:
        steps: in place of the config's, of the forget set alone: a training that goes before.

    Raises:
        ExpungeError: the processes cannot share a batch evenly.
    """
    from expunge.training.plan import plan_pairs, rounds

    batch_size = min(config.batch_size, len(tokens.forget))
    plan = plan_pairs(
        len(tokens.forget),
        len(tokens.retain) if steps is None and Need.RETAIN in method.needs else 0,
        kept=len(tokens.kept) if steps is None else 0,
        steps=steps or config.steps,
        batch_size=batch_size,
        micro_batch_size=config.micro_batch_size,
        seed=config.seed,
        processes=count(),
        lengths=[[len(each.tokens) for each in side] for side in tokens.sides.values()],
    )
    return UnlearnPlan(plan, rounds(batch_size, config.micro_batch_size, count()), batch_size)


def other_answers(
    config: UnlearnConfig,
    method: Method,
    method_config: Any,
    data: UnlearnData,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    place: Path,
) -> dict[str, list[Tokenized]]:
    """The refusals or alternatives that the method asks for, by side.

    Args:
        place: a file in which what the model made up is kept, and found by a run that goes on.
    """
    from expunge.batching import tokenize
    from expunge.examples import write_examples
    from expunge.processes import is_main, main_first
    from expunge.progress import progress
    from expunge.training.alternatives import made_up, refused

    answers: dict[str, list[Example]] = {}
    file = getattr(method_config, "refusals", None)
    for side, examples, need in (
        ("forget", data.forget, Need.REFUSALS),
        ("retain", data.retain, Need.RETAIN_REFUSALS),
    ):
        if need in method.needs:
            answers[f"{side} other"] = refused(examples, file, seed=config.seed)
    if Need.ALTERNATIVES in method.needs:
        with main_first():
            if is_main() and not place.exists():
                with progress("Asking for other answers", len(data.forget)) as bar:
                    write_examples(place, made_up(data.forget, model, tokenizer, seed=config.seed, bar=bar))
        answers["forget other"] = read_examples(place)
    return {side: tokenize(examples, tokenizer, max_seq_length=config.max_seq_length) for side, examples in answers.items()}


def recorded_impacts(
    config: UnlearnConfig, method: Method, method_config: Any, forget: Sequence[Example]
) -> RecordedImpacts | None:
    """The token impacts of the forget set that the ledger holds; None where they are not asked for.

    Raises:
        ExpungeError: there is no ledger, or none in it.
    """
    from expunge.errors import at_least

    if Need.IMPACT not in method.needs:
        return None
    at_least(0, weight_floor=method_config.weight_floor)
    if method_config.weights == "uniform":
        return None
    if config.database is None:
        raise ExpungeError(
            f"{method.name} weighs tokens by impacts recorded in a ledger, and none was named",
            remedy="pass the --database that the target was fine-tuned with, or --weights uniform",
        )
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        ids = [example.id for example in forget]
        # The run directory of a target made here is the one its `model` folder lies in.
        recorded = ledger.impacts_of(ids, run_id=method_config.impact_run, path=Path(config.model).parent)
    missing = len({*ids} - {*recorded.impacts})
    if missing:
        console.print(f"{missing} forget examples have no recorded impacts in run {recorded.run_id}: weighted evenly.")
    return recorded


def dry_run(config: UnlearnConfig, method: Method, method_config: Any, data: UnlearnData) -> Run:
    """How many steps and tokens, and about how much time and memory; nothing is written."""
    from expunge.models import load_tokenizer, model_shape, prepare_cpu, resolve_base
    from expunge.training.cost import matmul_rate, training_cost
    from expunge.training.plan import MicroBatch

    check_place(config.output)
    prepare_cpu(config.threads)
    tokens, shape = tokenised(config, data, load_tokenizer(config.model)), model_shape(config.model)
    # An edit trains on the forget set alone, or goes through it once.
    steps = getattr(method_config, "reinforce_steps", 1) if method.edit is not None else None
    plan = planned(config, method, tokens, steps=steps)
    every = [*tokens.forget, *tokens.retain, *tokens.kept]
    first, second = len(tokens.forget), len(tokens.forget) + len(tokens.retain)
    # Both sides are held until the backward pass, so they count as one micro-batch.
    together = [
        MicroBatch((*micro.forget, *(first + each for each in micro.retain), *(second + each for each in micro.kept)))
        for micro in plan.micro_batches
    ]
    cost = training_cost(
        shape,
        together,
        every,
        steps=len(together) // (plan.rounds * count()),
        rank=None if config.full else _rank(config, adapter=resolve_base(config.model) != config.model),
        dtype=config.dtype,
        bits=config.bits,
        recomputes=config.gradient_checkpointing,
        flops_per_second=count() * matmul_rate(shape.hidden, dtype=config.dtype),
    )
    results = {
        "forget": len(data.forget),
        "retain": len(data.retain),
        "steps at most": cost.steps,
        "tokens": cost.tokens,
        "truncated": sum(each.truncated for each in every),
        "trained weights": cost.trained_weights,
        "about seconds": round(cost.seconds),
        "about memory, GB": round(cost.memory_bytes / 1e9, 1),
    }
    return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})


def _rank(config: UnlearnConfig, *, adapter: bool) -> int:
    if not adapter:
        return config.lora_rank
    import json

    return int(json.loads((Path(config.model) / "adapter_config.json").read_text("utf-8"))["r"])
