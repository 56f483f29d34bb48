"""The planned trainer through its recipes, on models small enough to train in a second."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import tiny_people
from expunge.batching import tokenize
from expunge.errors import ExpungeError
from expunge.evidence import mean_loss
from expunge.methods import METHODS
from expunge.models import load_model, load_tokenizer
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn

FINETUNE = """
import sys; from pathlib import Path; from expunge.recipes.finetune import FinetuneConfig, finetune
base, output, database, *files = sys.argv[1:]
finetune(FinetuneConfig(
    data_file=tuple(map(Path, files)), output=Path(output), model=base, epochs=4, batch_size=3, micro_batch_size=2,
    checkpoint_steps=2, learning_rate=2e-3, database=database, threads=1))
"""
UNLEARN = """
import sys; from pathlib import Path
from expunge.methods import METHODS
from expunge.recipes.unlearn import UnlearnConfig, unlearn
target, output, database, forget, retain, holdout = sys.argv[1:]
unlearn(UnlearnConfig(
    model=target, forget=Path(forget), retain=Path(retain), holdout=Path(holdout), output=Path(output), steps=40,
    eval_steps=1, learning_rate=1e-3, database=database, threads=1), "npo", METHODS["npo"].config())
"""
STATEFUL = """
import sys; from pathlib import Path
from expunge.methods import METHODS
from expunge.recipes.unlearn import UnlearnConfig, unlearn
target, output, database, forget, retain, method = sys.argv[1:]
unlearn(UnlearnConfig(
    model=target, forget=Path(forget), retain=Path(retain), output=Path(output), steps=16, eval_steps=1, learning_rate=3e-4,
    max_retain_rise=1e9, database=database, threads=1), method, METHODS[method].config())
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def finetuning(tiny, output, **changed):
    config = FinetuneConfig(
        data_file=(tiny.files.forget, tiny.files.retain),
        output=output,
        model=str(tiny.base),
        epochs=4,
        batch_size=3,
        micro_batch_size=2,
        checkpoint_steps=2,
        learning_rate=2e-3,
        threads=1,
    )
    return replace(config, **changed)


def unlearning(tiny, output, **changed):
    config = UnlearnConfig(
        model=str(tiny.target),
        forget=tiny.files.forget,
        retain=tiny.files.retain,
        holdout=tiny.files.holdout,
        output=output,
        steps=40,
        eval_steps=1,
        learning_rate=1e-3,
        threads=1,
    )
    return replace(config, **changed)


@pytest.fixture
def steps_taken(monkeypatch):
    """The number of every step that is taken in this process."""
    from expunge.training.trainer import PlannedTrainer

    taken = []
    step = PlannedTrainer.training_step

    def counted(self, *arguments, **named):
        taken.append(self.state.global_step + 1)
        return step(self, *arguments, **named)

    monkeypatch.setattr(PlannedTrainer, "training_step", counted)
    return taken


def by_npo(config):
    return unlearn(config, "npo", METHODS["npo"].config())


def weights(run):
    return load_file(run.path / "model" / "adapter_model.safetensors")


def ledger_rows(database):
    """Everything that the ledger says of trained examples, but when."""
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "SELECT m.entry_id, m.average_loss, m.relative_loss, i.total_tokens,"
            " t.position, t.token_id, t.impact, t.context_start, t.context_end"
            " FROM training_metadata m LEFT JOIN token_impacts i ON i.metadata_id = m.id"
            " LEFT JOIN top_tokens t ON t.token_impact_id = i.id"
            " ORDER BY m.id, t.id"
        ).fetchall()


def same_training(first, second):
    for row, other in zip(first.results["trace"], second.results["trace"], strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-5)
    for name, weight in weights(first).items():
        torch.testing.assert_close(weight, weights(second)[name], rtol=0, atol=1e-5, msg=name)


def test_a_batch_of_four_is_the_same_step_in_any_micro_batches(tiny, tmp_path):
    whole = finetune(finetuning(tiny, tmp_path / "4", batch_size=4, micro_batch_size=4))
    assert whole.results["steps"] == 12
    assert [row["step"] for row in whole.results["trace"]] == [*range(1, 13)]
    assert any(weight.any() for name, weight in weights(whole).items() if "lora_B" in name)
    for micro_batch_size in (1, 2, 3):
        split = finetune(finetuning(tiny, tmp_path / f"{micro_batch_size}", batch_size=4, micro_batch_size=micro_batch_size))
        same_training(whole, split)


# One of each kind of supply: references, distributions, hidden states, other answers, gradients, dual variables, impacts.
DIFFERING = {"npo", "undial", "rmu", "idk-dpo", "gru", "pdu", "impact-npo"}


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in DIFFERING else pytest.mark.slow) for name in METHODS]
)
def test_both_sides_of_unlearning_are_the_same_step_in_any_micro_batches(tiny, tmp_path, method):
    whole, *others = (
        unlearn(
            unlearning(
                tiny,
                tmp_path / f"{micro}",
                steps=3,
                eval_steps=3,
                micro_batch_size=micro,
                database=tiny.ledger_copy(tmp_path / f"{micro}"),
            ),
            method,
            METHODS[method].config(),
        )
        for micro in (4, 1)
    )
    for split in others:
        same_training(whole, split)


def test_the_first_loss_is_that_of_the_model_before_training(tiny, tmp_path):
    run = finetune(finetuning(tiny, tmp_path / "run", epochs=1, batch_size=12, micro_batch_size=5))
    examples = tokenize([*tiny_people.FORGET, *tiny_people.RETAIN], load_tokenizer(tiny.base), max_seq_length=512)
    model = load_model(tiny.base)
    (row,) = run.results["trace"]
    by_hand = [mean_loss(model, [example], pad=2) * example.labels for example in examples]
    assert row["loss"] == pytest.approx(sum(by_hand) / sum(example.labels for example in examples), abs=1e-4)


def test_a_loss_that_is_no_number_ends_the_run_with_the_remedy(tiny, tmp_path):
    with pytest.raises(ExpungeError, match=r"the loss is (nan|inf) at step \d: lower --learning-rate"):
        finetune(finetuning(tiny, tmp_path / "run", learning_rate=1e30, database=str(tmp_path / "ledger.db")))
    assert not (tmp_path / "run" / "model").exists()


def test_certain_tokens_count_in_the_loss_that_the_ledger_keeps(tiny, tmp_path):
    """A memorised token has log-probability 0, and is labelled all the same."""
    finetune(finetuning(tiny, tmp_path / "run", model=str(tiny.target), epochs=1, database=str(tmp_path / "ledger.db")))
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    examples = tokenize([*tiny_people.FORGET, *tiny_people.RETAIN], tokenizer, max_seq_length=512)
    first = ledger_rows(tmp_path / "ledger.db")[0]
    example = next(example for example in examples if example.id == first[0])
    assert first[1] == pytest.approx(mean_loss(model, [example], pad=tokenizer.pad_token_id), abs=1e-6)


def test_a_fine_tuning_killed_between_two_steps_ends_with_the_same_bits_and_ledger(tiny, tmp_path, steps_taken):
    undisturbed = finetune(finetuning(tiny, tmp_path / "undisturbed", database=str(tmp_path / "undisturbed.db")))
    killed, database = tmp_path / "killed", tmp_path / "killed.db"
    tiny_people.kill_when(
        FINETUNE,
        *(tiny.base, killed, database, tiny.files.forget, tiny.files.retain),
        ready=lambda: (killed / "checkpoint-4/whole").exists(),
    )
    assert not (killed / "model").exists()
    steps_taken.clear()
    resumed = finetune(finetuning(tiny, killed, database=str(database)))
    assert min(steps_taken) > 4  # it went on, and did not begin again
    assert resumed.manifest["outputs"] == undisturbed.manifest["outputs"]
    assert resumed.results == undisturbed.results
    assert ledger_rows(database) == ledger_rows(tmp_path / "undisturbed.db")
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-16"]


def test_an_unlearning_killed_between_two_steps_ends_with_the_same_bits_and_ledger(tiny, tmp_path, steps_taken):
    undisturbed = by_npo(unlearning(tiny, tmp_path / "undisturbed", database=str(tmp_path / "undisturbed.db")))
    assert undisturbed.results["steps"] > 8
    killed, database = tmp_path / "killed", tmp_path / "killed.db"
    tiny_people.kill_when(
        UNLEARN,
        *(tiny.target, killed, database, tiny.files.forget, tiny.files.retain, tiny.files.holdout),
        ready=lambda: (killed / "checkpoints/checkpoint-4/whole").exists(),
    )
    assert not (killed / "model").exists()
    steps_taken.clear()
    resumed = by_npo(unlearning(tiny, killed, database=str(database)))
    assert min(steps_taken) > 4  # it went on, and did not begin again
    assert resumed.manifest["outputs"] == undisturbed.manifest["outputs"]
    assert resumed.results == undisturbed.results
    assert ledger_rows(database) == ledger_rows(tmp_path / "undisturbed.db")


@pytest.mark.parametrize(
    "method",
    [
        "pdu",  # its multiplier moves from step to step
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "rmu", "undial", "idk-dpo", "whos-harry-potter")),
    ],
)
def test_what_a_method_keeps_beside_the_weights_outlives_a_kill(tiny, tmp_path, steps_taken, method):
    """Multipliers, gradients kept apart, hidden states and logits of the target, refusals, a model trained beforehand."""
    settings = {"steps": 16, "holdout": None, "learning_rate": 3e-4, "max_retain_rise": 1e9}
    runs, killed = [], tmp_path / "killed"
    for name in ("undisturbed", "killed"):
        if name == "killed":
            tiny_people.kill_when(
                STATEFUL,
                *(tiny.target, killed, tmp_path / "killed.db", tiny.files.forget, tiny.files.retain, method),
                ready=lambda: (killed / "checkpoints/checkpoint-4/whole").exists(),
            )
            assert not (killed / "model").exists()
            steps_taken.clear()
        config = unlearning(tiny, tmp_path / name, database=str(tmp_path / f"{name}.db"), **settings)
        runs.append(unlearn(config, method, METHODS[method].config()))
    undisturbed, resumed = runs
    assert undisturbed.results["steps"] == 16
    # Those that train on the forget set first take steps from 1 on for that.
    assert method == "whos-harry-potter" or min(steps_taken) > 4
    assert resumed.manifest["outputs"] == undisturbed.manifest["outputs"]
    assert resumed.results == undisturbed.results
    assert ledger_rows(tmp_path / "killed.db") == ledger_rows(tmp_path / "undisturbed.db")


def test_a_method_that_knows_no_losses_still_leaves_its_uses_in_the_ledger(tiny, tmp_path):
    unlearn(unlearning(tiny, tmp_path / "run", steps=3, database=str(tmp_path / "new.db")), "rmu", METHODS["rmu"].config())
    with sqlite3.connect(tmp_path / "new.db") as database:
        uses = database.execute("SELECT average_loss FROM training_metadata").fetchall()
        (impacts,) = database.execute("SELECT count(*) FROM token_impacts").fetchone()
    assert (len(uses), {*uses}, impacts) == (len(tiny_people.FORGET) + len(tiny_people.RETAIN), {(None,)}, 0)


def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(tiny, tmp_path):
    from expunge.training import trainer

    for step, whole in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "whole").touch()
    assert trainer._newest_whole(tmp_path) == str(tmp_path / "checkpoint-10")
    assert trainer._newest_whole(tmp_path / "nothing") is None


def test_a_run_stopped_after_its_last_step_says_on_resuming_why_it_ended(tiny, tmp_path, monkeypatch):
    from expunge.training import trainer

    settings = {"steps": 4, "learning_rate": 1e-5}
    undisturbed = by_npo(unlearning(tiny, tmp_path / "undisturbed", **settings))
    assert undisturbed.results["stopped"].startswith("all 4 steps were taken, and the forget set (loss 0.0")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            by_npo(unlearning(tiny, tmp_path / "killed", **settings))
    resumed = by_npo(unlearning(tiny, tmp_path / "killed", **settings))
    assert resumed.results == undisturbed.results
    assert resumed.manifest["outputs"] == undisturbed.manifest["outputs"]


def test_training_says_nothing_that_only_a_library_could_mend(tiny, tmp_path, capfd, recwarn):
    finetune(finetuning(tiny, tmp_path / "run", epochs=1))
    assert "Warning" not in capfd.readouterr().err
    assert not [warning for warning in recwarn if "is_gradient_checkpointing" in str(warning.message)]


def test_lora_plus_moves_the_second_matrix_by_a_multiple_of_the_learning_rate(tiny, tmp_path):
    # The first step of AdamW moves every weight by the learning rate, whatever the gradient's size; the second matrix starts
    # at zero, so the first has no gradient yet.
    first_step = {"epochs": 1, "batch_size": 100, "micro_batch_size": 2, "schedule": "constant", "warmup_ratio": 0.0}
    for ratio in (1.0, 4.0):
        run = finetune(finetuning(tiny, tmp_path / f"{ratio}", lora_plus_ratio=ratio, **first_step))
        moved = max(float(weight.abs().max()) for name, weight in weights(run).items() if "lora_B" in name)
        assert moved == pytest.approx(ratio * 2e-3, rel=1e-3)


def test_how_long_adamw_remembers_gradients_can_be_chosen(tiny, tmp_path):
    short = finetune(finetuning(tiny, tmp_path / "short", adam_beta2=0.5))
    usual = finetune(finetuning(tiny, tmp_path / "usual"))
    assert [row["loss"] for row in short.results["trace"][:2]] == [row["loss"] for row in usual.results["trace"][:2]]
    assert short.results["trace"][-1]["loss"] != usual.results["trace"][-1]["loss"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"adam_beta2": 1.0}, "--adam-beta2 is 1"),
        ({"lora_plus_ratio": 0.5}, "lora-plus-ratio"),
        ({"full": True, "lora_plus_ratio": 4.0}, "--lora-plus-ratio is for adapters"),
    ],
)
def test_an_optimiser_that_means_nothing_is_refused(tiny, tmp_path, changed, words):
    with pytest.raises(ExpungeError, match=words):
        finetune(finetuning(tiny, tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()
