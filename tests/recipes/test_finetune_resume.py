"""A fine-tuning that is killed, and one that is shared by two processes, ends as an undisturbed one does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import expunge
import tiny_models
import tiny_people
from expunge.errors import ExpungeError
from expunge.ledger import Ledger
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.runs import Run

LAUNCH = Path(expunge.__file__).parent / "training" / "launch"
FULL = """
import sys; from pathlib import Path; from expunge.recipes.finetune import FinetuneConfig, finetune
base, output, learnt, validation = sys.argv[1:]
finetune(FinetuneConfig(
    data_file=(Path(learnt),), retain_val=Path(validation), output=Path(output), model=base, epochs=8, batch_size=3,
    checkpoint_steps=4, early_stopping_patience=9, eval_steps=2, full=True, learning_rate=2e-4, threads=1))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("resume") / "base", hidden=128)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_people.write_sets(tmp_path_factory.mktemp("sets"))


@pytest.mark.slow
def test_full_training_with_validation_killed_between_two_steps_ends_with_the_same_bits(base, files, tmp_path):
    config = FinetuneConfig(
        data_file=(files.retain,),
        retain_val=files.holdout,
        output=tmp_path / "undisturbed",
        model=str(base),
        epochs=8,
        batch_size=3,
        checkpoint_steps=4,
        early_stopping_patience=9,
        eval_steps=2,
        full=True,
        learning_rate=2e-4,
        threads=1,
    )
    undisturbed = finetune(config)
    killed = tmp_path / "killed"
    arguments = (base, killed, files.retain, files.holdout)
    tiny_people.kill_when(FULL, *arguments, ready=lambda: (killed / "checkpoint-6/whole").exists())
    assert not (killed / "model").exists()
    resumed = finetune(replace(config, output=killed))
    assert resumed.manifest["outputs"] == undisturbed.manifest["outputs"]
    assert resumed.results == undisturbed.results


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_each_writes_its_own_uses_in_the_ledger(base, files, tmp_path):
    """By `accelerate launch` with the configuration that comes with expunge; on processors it talks through gloo."""
    words = ["--model", base, "--data-file", files.forget, "--data-file", files.retain, "--retain-val", files.holdout]
    words += ["--epochs", 2, "--batch-size", 4, "--micro-batch-size", 1, "--learning-rate", 2e-3, "--threads", 1]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        LAUNCH / "ddp.yaml",
        "--main_process_port",
        0,
    ]
    done = subprocess.run(
        [
            *map(str, [*launch, "-m", "expunge", "finetune", *words]),
            *("--output", str(tmp_path / "two"), "--database", str(tmp_path / "two.db")),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.count("steps: 6") == 1  # one of them speaks
    one = finetune(
        FinetuneConfig(
            model=str(base),
            data_file=(files.forget, files.retain),
            retain_val=files.holdout,
            epochs=2,
            batch_size=4,
            micro_batch_size=1,
            learning_rate=2e-3,
            threads=1,
            output=tmp_path / "one",
            database=str(tmp_path / "one.db"),
        )
    )
    two = Run.read(tmp_path / "two")
    assert len(two.results["trace"]) == len(one.results["trace"]) == 8
    for row, other in zip(two.results["trace"], one.results["trace"], strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    uses = []
    for name in ("one", "two"):
        with Ledger.open(tmp_path / f"{name}.db") as ledger:
            status = ledger.status()
            uses.append((status.entries, status.training_uses, status.token_impacts, status.top_tokens, status.runs))
    assert uses[0] == uses[1]
    assert uses[0][1] == 12


def test_a_batch_that_two_processes_cannot_share_is_refused():
    from expunge.training.plan import plan_epochs, rounds

    with pytest.raises(
        ExpungeError, match="5 examples a step cannot be shared by 2 processes: give --batch-size a multiple of 2"
    ):
        rounds(5, 2, 2)
    plan = plan_epochs([9] * 20, extra=0, extra_share=0, epochs=1, batch_size=10, micro_batch_size=2, seed=0, processes=2)
    assert rounds(10, 2, 2) == 3
    assert [len(micro.forget) for micro in plan] == [1, 2, 2, 1, 2, 2] * 2  # six micro-batches a step, three for each


def test_a_command_for_one_process_is_refused_under_a_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ExpungeError, match="merge runs in one process, not in 2"), Run.open(tmp_path / "run", "merge", {}, {}):
        pass
