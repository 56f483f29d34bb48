"""Unlearning is the same in one process and in several, and in any split of a step into micro-batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import expunge
import tiny_people
from expunge.errors import ExpungeError
from expunge.examples import write_examples
from expunge.ledger import Ledger
from expunge.methods import METHODS
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.runs import Run

LAUNCH = Path(expunge.__file__).parent / "training" / "launch"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def launched(processes, words):
    """By `accelerate launch` with the configuration that comes with expunge; on processors it talks through gloo."""
    launch = ["--config_file", LAUNCH / "ddp.yaml", "--num_processes", processes, "--main_process_port", 0]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *map(str, [*launch, "-m", "expunge", *words])],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "method"),
    [(2, "npo"), (4, "npo"), (2, "gru"), (2, "pdu"), (2, "rmu"), (2, "undial"), (2, "whos-harry-potter"), (2, "ssd")],
)
def test_several_processes_have_the_trace_and_the_weights_of_one(tiny, tmp_path, processes, method):
    files = tiny.files
    write_examples(tmp_path / "earlier.jsonl", tiny_people.HOLDOUT[:1])
    write_examples(tmp_path / "strangers.jsonl", tiny_people.HOLDOUT[1:])
    settings = {
        "model": str(tiny.target),
        "forget": files.forget,
        "retain": files.retain,
        "holdout": tmp_path / "strangers.jsonl",
        "ordinary": files.ordinary,
        "keep_forgotten": (tmp_path / "earlier.jsonl",),
        "steps": 5,
        "batch_size": 4,
        "learning_rate": 3e-4,
        "threads": 1,
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "keep_forgotten"]
    words += ["--keep-forgotten", settings["keep_forgotten"][0], "--micro-batch-size=1"]
    words += [f"--output={tmp_path / 'several'}", f"--database={tiny.ledger_copy(tmp_path / 'several')}"]
    done = launched(processes, ["unlearn", method, *words])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("stopped: ") == 1  # one of them speaks
    one = unlearn(
        UnlearnConfig(**settings, output=tmp_path / "one", database=tiny.ledger_copy(tmp_path / "one")),
        method,
        METHODS[method].config(),
    )
    several = Run.read(tmp_path / "several")
    assert len(several.results["trace"]) == len(one.results["trace"]) >= 2
    for row, other in zip(several.results["trace"], one.results["trace"], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    paths = [run.path / "model" / "adapter_model.safetensors" for run in (several, one)]
    theirs, ours = map(load_file, paths)
    for name, weight in ours.items():
        assert_close(theirs[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    statuses = []
    for name in ("one", "several"):
        with Ledger.open(tmp_path / f"{name}.db") as ledger:
            statuses.append(ledger.status())
    assert statuses[0].training_uses == statuses[1].training_uses
    assert statuses[0].entries == statuses[1].entries


@pytest.mark.slow
def test_a_mistake_under_a_launcher_is_reported_once(tiny, tmp_path):
    done = launched(2, ["unlearn", "npo", "--model", tiny.target, "--forget", tiny.files.forget, "--output", tmp_path / "run"])
    assert done.returncode != 0
    assert done.stderr.count("npo needs examples that must stay, and none were named: give --retain") == 1
    assert not (tmp_path / "run").exists()


def test_a_step_that_processes_cannot_share_is_refused():
    from expunge.training.plan import plan_pairs

    with pytest.raises(ExpungeError, match="3 examples a step cannot be shared by 2 processes"):
        plan_pairs(3, 3, steps=1, batch_size=3, micro_batch_size=1, seed=0, processes=2)
    one, two = (
        plan_pairs(6, 9, kept=2, steps=3, batch_size=4, micro_batch_size=1, seed=0, processes=count) for count in (1, 2)
    )
    assert one == two
    wide = plan_pairs(6, 9, kept=2, steps=3, batch_size=4, micro_batch_size=4, seed=0)
    assert [sum((micro.kept for micro in one[step * 4 :][:4]), ()) for step in range(3)] == [micro.kept for micro in wide]


def test_spreading_the_model_over_processes_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    files = tiny.files
    config = UnlearnConfig(model=str(tiny.target), forget=files.forget, retain=files.retain, output=tmp_path / "run")
    with pytest.raises(ExpungeError, match=r"needs the whole model in every process: launch it with ddp\.yaml"):
        unlearn(config, "npo", METHODS["npo"].config())
