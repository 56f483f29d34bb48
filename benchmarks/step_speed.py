"""What threads, their waiting and kept memory do to a training step: `python benchmarks/step_speed.py`.

A LoRA step (forward and backward) of the embedded model, one sequence of `--tokens`, in a process of its own for each row: one
thread a core, and one; with the waiting that `expunge` sets, OpenMP's own, and none; with freed memory kept and not. Then the
same beside a program that keeps one core busy. Prints the median seconds of `--steps` steps, and how many times those of the
first row they are.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

from expunge.processes import cores, share_cores_well


class Way(NamedTuple):
    """One way to run a step."""

    name: str
    threads: int
    environment: dict[str, str]
    keeps_memory: bool = True


def main() -> None:
    """Time each way in a child, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=112, help="length of the sequence")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--child", nargs=2, type=int, metavar=("THREADS", "KEEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(step(options.child[0], options.tokens, options.steps, keeps_memory=bool(options.child[1])))
        return
    ways = [
        Way("as expunge does", cores(), {}),
        Way("OpenMP's own waiting", cores(), {"GOMP_SPINCOUNT": ""}),
        Way("no waiting in a loop", cores(), {"OMP_WAIT_POLICY": "PASSIVE"}),
        Way("freed memory given back", cores(), {}, keeps_memory=False),
        Way("one thread", 1, {}),
    ]
    print(f"{'':<26} {'threads':>7} {'quiet, s':>9} {'times':>6} {'busy, s':>9} {'times':>6}")
    quiet = [timed(way, options) for way in ways]
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        busy = [timed(way, options) for way in ways]
    finally:
        burner.kill()
    for way, alone, beside in zip(ways, quiet, busy, strict=True):
        print(f"{way.name:<26} {way.threads:>7} {alone:>9.2f} {alone / quiet[0]:>6.2f} {beside:>9.2f} {beside / busy[0]:>6.2f}")


def timed(way: Way, options: argparse.Namespace) -> float:
    """Median seconds of a step in a new process: OpenMP reads its settings once."""
    share_cores_well()
    environment = {name: value for name, value in {**os.environ, **way.environment}.items() if value}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, __file__, "--tokens", str(options.tokens), "--steps", str(options.steps)]
    child = [*command, "--child", str(way.threads), str(int(way.keeps_memory))]
    return float(subprocess.run(child, env=environment, capture_output=True, text=True, check=True).stdout)


def step(threads: int, tokens: int, steps: int, *, keeps_memory: bool) -> float:
    """Median seconds of a step, in this process."""
    import torch

    from expunge.models import fresh_adapter, load_model, prepare_cpu

    if keeps_memory:
        prepare_cpu(threads)
    else:
        torch.set_num_threads(threads)
    model: Any = fresh_adapter(load_model("embedded", trainable=True), "embedded", rank=16, alpha=32, seed=0)
    ids = torch.randint(0, 49_000, (1, tokens), generator=torch.Generator().manual_seed(0))
    seconds = []
    for number in range(steps + 1):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        if number:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
