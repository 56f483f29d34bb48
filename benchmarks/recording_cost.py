"""What recording costs a training step: `python benchmarks/recording_cost.py [--batches 30] [--impact removal] [--threads 1]`.

Fine-tunes the embedded model with LoRA, as the demo does, on notes that the medical source makes. Each batch is trained on
twice in a row, once recorded and once not, in turns: both times come from one process, one minute and the same tokens. Times
are of the whole step: forward, backward, optimiser, and the ledger. What writing the buffer takes is measured at the end and
counted with the recorded steps. An example is recorded at its first use only, so a run pays for it in one epoch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from expunge.batching import tokenize
from expunge.ledger import Ledger, Recorder
from expunge.models import fresh_adapter, load_model, load_tokenizer, prepare_cpu
from expunge.progress import progress
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.training.finetuning import answer_loss
from expunge.training.impact import ImpactConfig
from expunge.training.plan import MicroBatch
from expunge.training.trainer import PlannedTrainer, Schedule

DRAWS = 2000
WARM_UP = 2
"""Batches whose times are not looked at: memory is still being asked for."""


def main() -> None:
    """Train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=30, help="pairs of steps measured")
    parser.add_argument("--batch-size", type=int, default=2, help="examples a step; the demo's by default")
    parser.add_argument("--impact", default="removal", help="the estimator")
    parser.add_argument("--epochs", type=int, default=9, help="of the run that the cost is spread over; the demo's by default")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="expunge-recording-cost-") as directory:
        measure(Path(directory), options)


class Switch:
    """A recorder that, turned off, says that it knows every example."""

    def __init__(self, recorder: Recorder) -> None:
        self.on, self._recorder = True, recorder

    def __contains__(self, entry_id: object) -> bool:
        return not self.on or entry_id in self._recorder

    def flush(self) -> None:
        """Not now: the trainer's last step would pay for all. It is timed by itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recorder, name)


class Clock(TrainerCallback):
    """Times every step, and has it recorded or not: on, off, off, on, and so on."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self.steps: list[tuple[bool, float, float]] = []
        """(recorded, seconds on the clock, seconds of this process)"""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Turn the switch and look at the clocks."""
        # A batch is recorded at one of its two steps; which one comes first changes from batch to batch.
        self._switch.on = state.global_step % 4 in (0, 3)
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look again."""
        wall, own = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self.steps.append((self._switch.on, wall, own))


def measure(directory: Path, options: argparse.Namespace) -> None:
    """Train on made notes in `directory` and print what recording cost."""
    prepare_cpu(options.threads)
    batches, size = options.batches + WARM_UP, options.batch_size
    notes, data = directory / "notes.jsonl", directory / "data"
    generate_medical(GenerateMedicalConfig(n_record=max(20, 2 * batches * size), output=notes, seed=0))
    prepare_medical(PrepareMedicalConfig(input=notes, output=data, seed=0))
    from expunge.examples import read_examples

    examples = read_examples(data / "retain.jsonl")[: batches * size]
    tokenizer = load_tokenizer(options.model)
    tokens = tokenize(examples, tokenizer, max_seq_length=512)
    model = fresh_adapter(load_model(options.model, trainable=True), options.model, rank=16, alpha=32, seed=0)
    # Each batch twice, one after the other.
    plan = [MicroBatch(tuple(range(batch * size, (batch + 1) * size)), ()) for batch in range(batches) for _ in range(2)]
    with Ledger.open(directory / "ledger.db") as ledger, progress("Training", len(plan)) as bar:
        ledger.add_entries(examples, source="retain.jsonl")
        run_id = ledger.start_run(name="benchmark", path=directory / "run", checkpoint="0", impact_estimator=options.impact)
        recorder = ledger.recorder(run_id)
        switch: Any = Switch(recorder)
        clock = Clock(switch)
        trainer = PlannedTrainer(
            model,
            tokenizer,
            answer_loss,
            plan,
            tokens,
            schedule=Schedule(
                learning_rate=1e-4,
                warmup_steps=1,
                kind="constant_with_warmup",
                accumulate=1,
                checkpoint_steps=10 * len(plan),
                seed=0,
            ),
            directory=directory / "checkpoints",
            bar=bar,
            recorder=switch,
            impact=ImpactConfig(impact=options.impact),
            callbacks=[clock],
        )
        trainer.run()
        start = time.perf_counter(), time.process_time()
        recorder.flush()
        flush = np.array([time.perf_counter() - start[0], time.process_time() - start[1]]) / batches
        uses = ledger.status().token_impacts
    assert uses == len(tokens), f"{uses} of {len(tokens)} examples were recorded"
    show(clock.steps, flush, options)


def show(steps: list[tuple[bool, float, float]], flush_C: Any, options: argparse.Namespace) -> None:
    """Print, for both clocks, the step without recording, with it, and what a whole run pays."""
    found = np.array([times for _, *times in steps]).reshape(-1, 2, 2)[WARM_UP:]
    first_recorded = np.array([recorded for recorded, *_ in steps[::2]])[WARM_UP:]
    on, off = (np.where(first_recorded[:, None] == which, found[:, 0], found[:, 1]) for which in (True, False))
    print(f"{len(on)} pairs of steps of {options.batch_size} notes, estimator {options.impact}; medians and 95% intervals")
    print(
        f"{'clock':<16}{'plain':>10}{'recorded':>12}{'writing':>12}    a recorded step       a run of {options.epochs} epochs"
    )
    rng = np.random.default_rng(0)
    for column, name in enumerate(("wall", "this process")):
        with_, without, write = on[:, column], off[:, column], flush_C[column]
        # The median of pairs: what other programs do to one step is not asked about.
        costs = 100 * ((with_ + write) / without - 1)
        drawn = np.median(costs[rng.integers(len(costs), size=(DRAWS, len(costs)))], axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        times = f"{np.median(without):>8.3f} s{np.median(with_):>10.3f} s{write:>10.4f} s"
        recorded = f"{np.median(costs):+.1f}% [{low:+.1f}, {high:+.1f}]"
        print(f"{name:<16}{times}    {recorded:<22}{np.median(costs) / options.epochs:+.2f}%")


if __name__ == "__main__":
    main()
