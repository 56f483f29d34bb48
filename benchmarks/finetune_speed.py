"""Throughput of fine-tuning beside TRL: `python benchmarks/finetune_speed.py [--steps 12] [--rounds 3] [--threads 2]`.

Both train the embedded model with the same LoRA adapter, from the same start, on the same batches of the same tokens, in
float32, with AdamW and without gradient checkpointing: expunge by its own trainer, TRL by a plain `SFTTrainer`. They take turns
in one process. The clock runs from the end of a block's first step to the end of its last, and so includes reading and padding
the batches. Tokens are those of the examples, without padding. `--own-order` lets TRL draw its batches at random, as it does
when it is not told otherwise, instead of giving it ours, which have neighbours in length side by side.

The share of the peak is what the step must multiply, by the sizes of its matrices, over what this machine multiplies at best: a
product of the model's own width, measured before every block.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from expunge.batching import Tokenized, tokenize
from expunge.models import fresh_adapter, load_model, load_tokenizer, model_shape, prepare_cpu
from expunge.progress import console, progress
from expunge.sources.medical import example_of, generate_notes
from expunge.training.cost import matmul_rate
from expunge.training.finetuning import answer_loss
from expunge.training.plan import MicroBatch, plan_epochs
from expunge.training.trainer import PlannedTrainer, Schedule


class Block(NamedTuple):
    """What one block of steps did."""

    tokens_per_second: float
    loss: float
    """Of its last step, nats a token."""


class Clock(TrainerCallback):
    """When the first and the last step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock."""
        self.ends.append(time.perf_counter())


def main() -> None:
    """Train in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps a block, of which the first is not looked at")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each trainer")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--own-order", action="store_true", help="TRL draws its own batches")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    prepare_cpu(options.threads)
    logging.set_verbosity_error()
    tokenizer, shape = load_tokenizer(options.model), model_shape(options.model)
    notes = generate_notes(options.steps * options.batch_size, 0)
    tokens = tokenize([example_of(note) for note in notes], tokenizer, max_seq_length=512)
    plan = plan_epochs(
        [len(example.tokens) for example in tokens],
        extra=0,
        extra_share=0,
        epochs=1,
        batch_size=options.batch_size,
        micro_batch_size=options.batch_size,
        seed=0,
    )
    models = [
        fresh_adapter(load_model(options.model), options.model, rank=options.rank, alpha=2 * options.rank, seed=0)
        for _ in ("expunge", "TRL")
    ]
    blocks: dict[str, list[Block]] = {"expunge": [], "TRL": []}
    peaks = []
    with (
        tempfile.TemporaryDirectory(prefix="expunge-finetune-speed-") as directory,
        progress("Steps", 2 * options.rounds) as bar,
    ):
        for round_ in range(options.rounds):
            turns = ["expunge", "TRL"]
            for name in turns if round_ % 2 == 0 else turns[::-1]:
                peaks.append(matmul_rate(shape.hidden, dtype="float32"))
                place = Path(directory) / f"{name}-{round_}"
                if name == "expunge":
                    blocks[name].append(_expunge(models[0], tokenizer, plan, tokens, place))
                else:
                    blocks[name].append(_trl(models[1], tokenizer, plan, tokens, place, own_order=options.own_order))
                bar.advance(1)
    learnt = [example for micro in plan for example in (tokens[place] for place in micro.forget)]
    # Forward, and backward through the activations; the adapter's own weights too. Two operations each.
    labelled = sum(example.labels for example in learnt) / sum(len(example.tokens) for example in learnt)
    each = 4 * (shape.linear + labelled * shape.vocabulary * shape.hidden) + 6 * shape.sides * options.rank
    peak = float(np.median(peaks))
    print(f"{'':<10}{'tokens/s':>10}{'of peak':>10}{'loss':>8}")
    for name, found in blocks.items():
        rate = float(np.median([block.tokens_per_second for block in found]))
        print(f"{name:<10}{rate:>10.1f}{rate * each / peak:>10.0%}{found[-1].loss:>8.3f}")
    ratios = [ours.tokens_per_second / theirs.tokens_per_second for ours, theirs in zip(*blocks.values(), strict=True)]
    print(f"ratio {np.median(ratios):.2f} (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    print(f"peak: {peak / 1e9:.1f} G operations/s in float32; {len(plan)} steps a block")


def _expunge(model: Any, tokenizer: Any, plan: list[MicroBatch], tokens: list[Tokenized], place: Path) -> Block:
    clock = Clock()
    trainer = PlannedTrainer(
        model,
        tokenizer,
        answer_loss,
        plan,
        tokens,
        schedule=Schedule(
            learning_rate=2e-4, warmup_steps=0, kind="constant_with_warmup", accumulate=1, checkpoint_steps=10**9, seed=0
        ),
        directory=place,
        bar=_Silent(),
        callbacks=[clock],
    )
    # As the others do: a checkpoint at the end is no part of a step.
    trainer.args.save_strategy = "no"
    trainer.run()
    return Block(_rate(clock, [micro.forget for micro in plan], tokens), trainer.trace[-1]["loss"])


def _trl(model: Any, tokenizer: Any, plan: list[MicroBatch], tokens: list[Tokenized], place: Path, *, own_order: bool) -> Block:
    clock = Clock()
    ordered = [tokens[each] for micro in plan for each in micro.forget]
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(place),
            max_steps=len(plan),
            per_device_train_batch_size=len(plan[0].forget),
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            max_length=512,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            train_sampling_strategy="random" if own_order else "sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [list(example.tokens) for example in ordered],
                "completion_mask": [[0] * example.start + [1] * example.labels for example in ordered],
            }
        ),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return Block(_rate(clock, [micro.forget for micro in plan], tokens), float(losses[-1]))


def _rate(clock: Clock, steps: list[tuple[int, ...]], tokens: list[Tokenized]) -> float:
    # Drawn at random, the steps are others, but on average as large.
    counts = [sum(len(tokens[place].tokens) for place in step) for step in steps]
    return sum(counts) * (len(counts) - 1) / len(counts) / (clock.ends[-1] - clock.ends[0])


class _Silent:
    def advance(self, steps: int = 1, **numbers: float) -> None:
        """Say nothing."""


if __name__ == "__main__":
    console.print("Loading the model twice …")
    main()
