"""Sixteen made-up people in one sentence each, and a tiny model that knows twelve of them by heart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from filelock import FileLock

import tiny_models
from expunge.examples import Example, write_examples

# More threads than one make tiny models slower, ten times so on a busy machine.
torch.set_num_threads(1)

_PLACES = {
    "Ana": "Lyon",
    "Ben": "Oslo",
    "Cleo": "Bonn",
    "Dan": "Turin",
    "Eva": "Porto",
    "Finn": "Cadiz",
    "Gus": "Genoa",
    "Hana": "Malmo",
    "Ivo": "Ghent",
    "Jana": "Basel",
    "Kai": "Lille",
    "Lea": "Split",
    "Max": "Dover",
    "Nils": "Cork",
    "Olga": "Bern",
    "Pia": "Graz",
}

PEOPLE = [Example(f"Where is {name}?", f"{name} is in {city}.", name) for name, city in _PLACES.items()]
FORGET, RETAIN, HOLDOUT = PEOPLE[:4], PEOPLE[4:12], PEOPLE[12:]
ORDINARY = [
    Example(None, f"The {thing} stood by the {place}.", "ordinary") for thing, place in (("bus", "gate"), ("cat", "old mill"))
]


class Files(NamedTuple):
    """The sets on disk."""

    forget: Path
    retain: Path
    holdout: Path
    ordinary: Path


class Tiny(NamedTuple):
    """A base model, an adapter that knows the forget and the retain people, the sets, and the ledger of how it learnt them."""

    base: Path
    target: Path
    files: Files
    ledger: Path

    def ledger_copy(self, place: Path) -> str:
        """The ledger for a test of its own."""
        return str(shutil.copy(self.ledger, place.with_suffix(".db")))


def write_sets(directory: Path) -> Files:
    """The four sets as JSON lines."""
    files = Files(*(directory / f"{name}.jsonl" for name in Files._fields))
    for path, examples in zip(files, (FORGET, RETAIN, HOLDOUT, ORDINARY), strict=True):
        write_examples(path, examples)
    return files


def target(factory: pytest.TempPathFactory) -> Tiny:
    """Made once for all tests and all of their processes, which only read it."""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    made, whole = place / "tiny-people", place / "tiny-people.whole"
    with FileLock(place / "tiny-people.lock"):
        if not whole.exists():
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            _make(made)
            whole.touch()
    files = Files(*(made / f"{name}.jsonl" for name in Files._fields))
    return Tiny(made / "base", made / "target" / "model", files, made / "ledger.db")


def _make(directory: Path) -> None:
    from expunge.recipes.finetune import FinetuneConfig, finetune

    files = write_sets(directory)
    base = tiny_models.write_model(directory / "base", hidden=128)
    finetune(
        FinetuneConfig(
            data_file=(files.forget, files.retain),
            output=directory / "target",
            model=str(base),
            epochs=40,
            learning_rate=5e-3,
            batch_size=6,
            micro_batch_size=6,
            checkpoint_steps=1000,
            database=str(directory / "ledger.db"),
            threads=1,
        )
    )


def kill_when(code: str, *arguments: object, ready: Callable[[], bool], seconds: float = 60) -> None:
    """Run Python code in a process of its own, and `kill -9` it as soon as `ready`."""
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + seconds
        while not ready():
            assert process.poll() is None, f"it ended before it could be killed: {process.communicate()[1].decode()}"
            assert time.monotonic() < end, "it never came to where it should be killed"
            time.sleep(0.005)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
