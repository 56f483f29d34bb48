"""Throughput of fine-tuning beside TRL: `python benchmarks/finetune_speed.py [--steps 20] [--own-order] [--threads 2]`.

Both train the embedded model with the same LoRA adapter, from the same start, on the same batches of the same tokens, in
float32, with AdamW and without gradient checkpointing: expunge by its own trainer, TRL by a plain `SFTTrainer`. They take turns
step by step in one process, so that whatever else the machine does falls on both. A step's time runs from the end of the one
before, and so includes reading and padding the batch. Tokens are those of the examples, without padding. `--own-order` lets
TRL draw its batches at random, as it does when it is not told otherwise, instead of giving it ours, which have neighbours in
length side by side.

The share of the peak is what the steps must multiply, by the sizes of their matrices, over what this machine multiplies at
best: a product of the model's own width, measured before and after.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from expunge.batching import Tokenized, tokenize
from expunge.models import fresh_adapter, load_model, load_tokenizer, model_shape, prepare_cpu
from expunge.progress import Bar, console, progress
from expunge.sources.medical import example_of, generate_notes
from expunge.training.cost import matmul_rate
from expunge.training.finetuning import answer_loss
from expunge.training.plan import MicroBatch, plan_epochs
from expunge.training.trainer import PlannedTrainer, Schedule

WARM_UP = 2
"""Steps whose times are not looked at: memory is still being asked for."""


class Step(NamedTuple):
    """What one step took."""

    seconds: float
    cpu_seconds: float
    """Of all threads: where others use the machine too, the fairer number."""


class Turns(TrainerCallback):
    """Lets the other trainer go after every step, and times the own ones."""

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore) -> None:
        self.steps: list[Step] = []
        self._mine, self._other = mine, other

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first turn."""
        self._mine.acquire()
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock, hand over, wait."""
        wall, cpu = self._start
        self.steps.append(Step(time.perf_counter() - wall, time.process_time() - cpu))
        self._other.release()
        self._mine.acquire()
        self._start = time.perf_counter(), time.process_time()


def main() -> None:
    """Train in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of each, of which the first two are not looked at")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--own-order", action="store_true", help="TRL draws its own batches")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    prepare_cpu(options.threads)
    logging.set_verbosity_error()
    disable_progress_bars()
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
    first, second = threading.Semaphore(1), threading.Semaphore(0)
    turns = {"expunge": Turns(first, second), "TRL": Turns(second, first)}
    peaks = [matmul_rate(shape.hidden, dtype="float32")]
    with (
        tempfile.TemporaryDirectory(prefix="expunge-finetune-speed-") as directory,
        progress("Steps", options.steps) as bar,
        ThreadPoolExecutor(2) as pool,
    ):
        ours = _expunge(models[0], tokenizer, plan, tokens, Path(directory) / "expunge", turns["expunge"], bar)
        theirs = _trl(models[1], tokenizer, plan, tokens, Path(directory) / "trl", turns["TRL"], own_order=options.own_order)
        running = [
            pool.submit(_then, ours.run, second),
            pool.submit(_then, theirs.train, first),
        ]
        for each in running:
            each.result()
    peaks.append(matmul_rate(shape.hidden, dtype="float32"))
    counts = [sum(len(tokens[place].tokens) for place in micro.forget) for micro in plan][WARM_UP:]
    losses = {
        "expunge": ours.trace[-1]["loss"],
        "TRL": next(row["loss"] for row in theirs.state.log_history[::-1] if "loss" in row),
    }
    # Forward, and backward through the activations; the adapter's own weights too. Two operations each.
    learnt = [tokens[place] for micro in plan for place in micro.forget]
    labelled = sum(example.labels for example in learnt) / sum(len(example.tokens) for example in learnt)
    operations = 4 * (shape.linear + labelled * shape.vocabulary * shape.hidden) + 6 * shape.sides * options.rank
    print(f"{'':<10}{'tokens/s':>10}{'tokens/CPU s':>14}{'of peak':>10}{'last loss':>11}")
    for name, turn in turns.items():
        wall, cpu = (sum(column) for column in zip(*turn.steps[WARM_UP:], strict=True))
        rate = sum(counts) / wall
        print(f"{name:<10}{rate:>10.1f}{sum(counts) / cpu:>14.1f}{rate * operations / max(peaks):>10.0%}{losses[name]:>11.4f}")
    pairs = np.array([[*mine, *other] for mine, other in zip(*(turn.steps[WARM_UP:] for turn in turns.values()), strict=True)])
    print(
        f"ratio of times, TRL / expunge, median of {len(pairs)} pairs of steps: {np.median(pairs[:, 2] / pairs[:, 0]):.2f}",
        end="",
    )
    print(f" (CPU time {np.median(pairs[:, 3] / pairs[:, 1]):.2f})")
    print(f"peak: {max(peaks) / 1e9:.1f} G operations/s in float32")


def _then(train: Callable[[], Any], other: threading.Semaphore) -> None:
    try:
        train()
    finally:
        # The other need not wait for one that has ended.
        other.release()


def _expunge(
    model: Any, tokenizer: Any, plan: list[MicroBatch], tokens: list[Tokenized], place: Path, turns: Turns, bar: Bar
) -> PlannedTrainer:
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
        bar=bar,
        callbacks=[turns],
    )
    # As the other does: a checkpoint at the end is no part of a step.
    trainer.args.save_strategy = "no"
    return trainer


def _trl(
    model: Any, tokenizer: Any, plan: list[MicroBatch], tokens: list[Tokenized], place: Path, turns: Turns, *, own_order: bool
) -> SFTTrainer:
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
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
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
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == "__main__":
    console.print("Loading the model twice …")
    main()
