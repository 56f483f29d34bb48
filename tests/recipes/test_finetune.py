"""Fine-tuning as a user asks for it: flags of either script, what is left, and what is refused, on a tiny model."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
import tiny_people
from expunge.batching import tokenize
from expunge.cli import app
from expunge.errors import ExpungeError
from expunge.evidence import label_log_p
from expunge.examples import Example, read_examples, write_examples
from expunge.models import load_model, load_tokenizer
from expunge.recipes.finetune import FinetuneConfig, finetune


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("finetune") / "base", hidden=128)


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    """Files as `expunge prepare temporal` writes them."""
    directory = tmp_path_factory.mktemp("datasets")
    sides = {
        "retain/retain_train": tiny_people.RETAIN,
        "retain/retain_val": tiny_people.HOLDOUT[:2],
        "unlearn/unlearn_train": tiny_people.FORGET,
        "unlearn/unlearn_val": tiny_people.HOLDOUT[2:],
        "dev/dev_subset": tiny_people.PEOPLE[:5],
    }
    for name, examples in sides.items():
        path = directory / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = (
            {"instruction": each.prompt, "output": each.response, "metadata": {"dataset_type": name, "event_id": each.subject}}
            for each in examples
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def config(base, temporal, output, **changed):
    whole = FinetuneConfig(
        model=str(base),
        retain_train=temporal / "retain/retain_train.jsonl",
        unlearn_train=temporal / "unlearn/unlearn_train.jsonl",
        output=output,
        epochs=3,
        learning_rate=2e-3,
        threads=1,
    )
    return replace(whole, **changed)


def validated(base, temporal, output, **changed):
    files = {"retain_val": temporal / "retain/retain_val.jsonl", "unlearn_val": temporal / "unlearn/unlearn_val.jsonl"}
    return config(base, temporal, output, **{**files, **changed})


def asked(words):
    """The config that a command line makes."""
    _, bound, _ = app.parse_args(["finetune", *words.split()], exit_on_error=False, print_error=False)
    return bound.arguments["config"]


def json_of(path):
    return json.loads(path.read_text("utf-8"))


def test_every_flag_of_the_medical_script_has_its_own_name():
    words = (
        "--data_file a.jsonl --base_model m --output_dir o --num_epochs 2 --batch_size 3 --gradient_accumulation_steps 4"
        " --learning_rate 1e-5 --lora_rank 6 --lora_alpha 7 --max_seq_length 8 --use_4bit --hf_token t --wandb"
    )
    made = asked(words)
    assert [str(path) for path in made.data_file] == ["a.jsonl"]
    assert (made.model, str(made.output), made.epochs, made.step_size, made.learning_rate) == ("m", "o", 2, 12, 1e-5)
    assert (made.lora_rank, made.lora_alpha, made.max_seq_length, made.bits) == (6, 7, 8, 4)
    assert (made.hf_token, made.wandb) == ("t", True)


def test_every_flag_of_the_temporal_script_has_its_own_name():
    words = (
        "--retain_train a --retain_val b --unlearn_train c --unlearn_val d --model_name m --epochs 2 --lora_r 6 --use_8bit"
        " --dev --dev_path e -o o"
    )
    made = asked(words)
    assert [str(path) for path in (made.retain_train, made.retain_val, made.unlearn_train, made.unlearn_val)] == [*"abcd"]
    assert (made.model, made.epochs, made.lora_rank, made.bits, made.dev) == ("m", 2, 6, 8, True)
    assert (str(made.dev_path), str(made.output)) == ("e", "o")


def test_a_run_leaves_what_either_script_leaves(base, temporal, tmp_path):
    run = finetune(validated(base, temporal, tmp_path / "run"))
    assert (run.path / "final").resolve() == (run.path / "model").resolve()
    assert load_model(run.path / "final").peft_config
    assert [path.name for path in run.path.glob("checkpoint-*")] == ["checkpoint-9"]
    assert list((run.path / "tensorboard").iterdir())
    trained = json_of(run.path / "train_results.json")
    assert (trained["train_steps"], trained["train_examples"], trained["truncated_examples"]) == (9, 36, 0)
    assert trained["last_loss"] < trained["train_loss"]
    assert {*json_of(run.path / "eval_results.json")} >= {"eval_retain_loss", "eval_unlearn_loss", "eval_retain_perplexity"}
    picture = ElementTree.parse(run.path / "loss.svg").getroot()
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"training", "validation, retain", "validation, unlearn"} <= {*words}


def test_the_validation_losses_are_those_of_each_set_under_the_saved_model(base, temporal, tmp_path):
    run = finetune(validated(base, temporal, tmp_path / "run"))
    model, tokenizer = load_model(run.path / "model"), load_tokenizer(base)
    for name in ("retain", "unlearn"):
        examples = tokenize(read_examples(temporal / name / f"{name}_val.jsonl"), tokenizer, max_seq_length=512)
        log_p = torch.cat(label_log_p(model, examples, pad=tokenizer.pad_token_id))
        assert run.results[f"eval_{name}_loss"] == pytest.approx(-float(log_p.mean()), rel=1e-5)
    assert [row["step"] for row in run.results["trace"] if "eval_retain_loss" in row] == [3, 6, 9]  # once an epoch


def test_gradient_accumulation_makes_the_same_steps_as_a_larger_batch(base, temporal, tmp_path):
    large = finetune(config(base, temporal, tmp_path / "large", batch_size=4))
    small = finetune(config(base, temporal, tmp_path / "small", batch_size=2, gradient_accumulation_steps=2))
    losses = [[row["loss"] for row in run.results["trace"]] for run in (large, small)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_learning_rate_rises_and_then_falls_by_a_cosine_unless_another_schedule_is_asked_for(base, temporal, tmp_path):
    for schedule, at_step_17 in (("cosine", (1 + math.cos(math.pi * 14 / 19)) / 2), ("warmup-stable-decay", 1.0)):
        changed = {} if schedule == "cosine" else {"schedule": schedule}
        run = finetune(config(base, temporal, tmp_path / schedule, epochs=7, warmup_ratio=0.1, **changed))
        rates = [row["learning_rate"] / 2e-3 for row in run.results["trace"]]
        assert rates[:3] == [0, 0.5, 1]
        assert rates[16] == pytest.approx(at_step_17)
        assert rates[-1] < 0.3


def test_training_ends_early_and_keeps_the_best_weights_when_validation_gets_worse(base, temporal, tmp_path):
    run = finetune(
        validated(base, temporal, tmp_path / "run", epochs=60, learning_rate=8e-3, eval_steps=6, early_stopping_patience=2)
    )
    assert run.results["steps"] < 180
    rows = [row for row in run.results["trace"] if "eval_retain_loss" in row]
    best = min(rows, key=lambda row: row["eval_retain_loss"] + row["eval_unlearn_loss"])
    assert best["step"] == run.results["steps"] - 12
    assert run.results["eval_retain_loss"] == pytest.approx(best["eval_retain_loss"], rel=1e-5)


def test_full_training_leaves_whole_weights_that_load_without_expunge(base, temporal, tmp_path):
    from transformers import AutoModelForCausalLM

    run = finetune(config(base, temporal, tmp_path / "run", full=True, learning_rate=5e-4))
    before, after = (load_file(path / "model.safetensors") for path in (base, run.path / "final"))
    assert {*before} == {*after}
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert AutoModelForCausalLM.from_pretrained(run.path / "final").config.use_cache


def test_full_training_of_an_adapter_is_refused(base, temporal, tmp_path):
    run = finetune(config(base, temporal, tmp_path / "run", epochs=1))
    with pytest.raises(ExpungeError, match="is an adapter, which has no weights of its own: merge it"):
        finetune(config(base, temporal, tmp_path / "full", model=str(run.path / "model"), full=True))


def test_gradient_checkpointing_and_smaller_micro_batches_change_nothing_that_is_learnt(base, temporal, tmp_path):
    plain = finetune(config(base, temporal, tmp_path / "plain"))
    lean = finetune(config(base, temporal, tmp_path / "lean", gradient_checkpointing=True, micro_batch_size=2))
    losses = [[row["loss"] for row in run.results["trace"]] for run in (plain, lean)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_beside_half_as_many_held_examples_smaller_micro_batches_change_nothing_that_is_learnt(base, temporal, tmp_path):
    held = tmp_path / "held.jsonl"
    write_examples(
        held, [Example(f"Say {word}.", f"{word}, {word}.", f"own {word}") for word in ("so", "thus", "yes", "no", "if")]
    )
    options = {"held": held, "held_share": 0.5, "epochs": 2}
    whole, small = (
        finetune(config(base, temporal, tmp_path / f"m{size}", micro_batch_size=size, **options)) for size in (4, 1)
    )
    first, second = ([row["loss"] for row in run.results["trace"]] for run in (whole, small))
    assert first == pytest.approx(second, rel=1e-4)
    assert {"retain_loss"} <= {name for row in whole.results["trace"] for name in row}
    unheld = finetune(config(base, temporal, tmp_path / "unheld", epochs=2))
    assert unheld.results["trace"][-1]["loss"] != first[-1]


def test_bfloat16_multiplies_in_bfloat16_and_trains_in_float32(base, temporal, tmp_path):
    half, whole = (
        finetune(config(base, temporal, tmp_path / dtype, dtype=dtype, epochs=1)) for dtype in ("bfloat16", "float32")
    )
    first, second = (run.results["trace"][0]["loss"] for run in (half, whole))
    assert first == pytest.approx(second, rel=0.02)
    assert first != second
    assert {weight.dtype for weight in load_file(half.path / "model/adapter_model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_few_bits_are_trained_upon(base, temporal, tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="no bitsandbytes here: pip install 'expunge[bits]'")
    run = finetune(config(base, temporal, tmp_path / "run", use_4bit=bits == 4, use_8bit=bits == 8))
    losses = [row["loss"] for row in run.results["trace"]]
    assert losses[-1] < 0.8 * losses[0]
    assert load_model(run.path / "model").peft_config


def test_a_trial_learns_a_few_examples_or_the_ones_it_is_given(base, temporal, tmp_path, monkeypatch):
    trial = finetune(config(base, temporal, tmp_path / "trial", dev=True, epochs=1))
    assert json_of(trial.path / "train_results.json")["train_examples"] == 12
    given = finetune(config(base, temporal, tmp_path / "given", dev=True, dev_path=temporal / "dev/dev_subset.jsonl", epochs=1))
    assert json_of(given.path / "train_results.json")["train_examples"] == 8  # five, and three again to fill the last step
    monkeypatch.chdir(temporal.parent)
    (temporal.parent / "datasets").exists() or (temporal.parent / "datasets").symlink_to(temporal)
    assert (
        finetune(FinetuneConfig(model=str(base), output=tmp_path / "bare", dev=True, epochs=1, threads=1)).results["steps"] == 2
    )


def test_a_large_set_is_cut_to_the_same_thirty_two_for_a_trial_and_a_file_made_for_trials_is_taken_whole(tmp_path):
    from expunge.examples import Example, write_examples
    from expunge.recipes.finetune_data import read_data

    path = tmp_path / "many.jsonl"
    write_examples(path, [Example(f"{number}?", "Yes.", f"{number}") for number in range(100)])
    first, again, other = (read_data(FinetuneConfig(data_file=(path,), dev=True, seed=seed)).examples for seed in (1, 1, 2))
    assert len(first) == 32
    assert first == again != other
    made_for_it = read_data(FinetuneConfig(data_file=(tmp_path / "unread.jsonl",), dev=True, dev_path=path)).examples
    assert len(made_for_it) == 100


def test_a_run_without_a_place_is_named_by_model_size_and_time_and_an_unfinished_one_is_continued(
    base, temporal, tmp_path, monkeypatch
):
    from expunge.training import trainer

    monkeypatch.chdir(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(config(base, temporal, None, epochs=1))
    (place,) = (tmp_path / "runs").iterdir()
    assert place.name.startswith("base-12-20")
    assert finetune(config(base, temporal, None, epochs=1)).path == place.relative_to(tmp_path)
    assert finetune(config(base, temporal, None, epochs=2)).path.name != place.name


def test_a_dry_run_says_the_steps_and_writes_nothing(base, temporal, tmp_path):
    run = finetune(config(base, temporal, tmp_path / "run", dry_run=True))
    assert (run.results["examples"], run.results["steps"]) == (12, 9)
    assert run.results["trained weights"] == sum(
        weight.numel()
        for weight in load_file(
            finetune(config(base, temporal, tmp_path / "real")).path / "model/adapter_model.safetensors"
        ).values()
    )
    assert run.results["about memory, GB"] > 0
    assert not (tmp_path / "run").exists()


def test_the_token_stands_in_no_file_and_not_in_the_config(base, temporal, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    secret = "hf_thistokenmustnotbekept"
    made = config(base, temporal, tmp_path / "run", hf_token=secret, epochs=1)
    assert secret not in repr(made)
    monkeypatch.setattr(sys, "argv", ["expunge", "finetune", "--hf_token", secret, f"--hf-token={secret}"])
    finetune(made)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert secret not in " ".join(sys.argv)  # which Weights & Biases would write down


def test_what_is_cut_off_is_said_with_the_first_place(base, temporal, tmp_path, capsys):
    run = finetune(config(base, temporal, tmp_path / "run", max_seq_length=40, epochs=1))
    assert run.results["truncated"] > 0
    said = capsys.readouterr().err
    assert f"{run.results['truncated']} of 12 examples are cut off at 40 tokens (first: " in said
    assert "retain_train.jsonl:" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"retain_train": None, "unlearn_train": None}, "no examples to learn were named: give --data-file"),
        ({"use_4bit": True, "use_8bit": True}, "--use-4bit and --use-8bit exclude each other"),
        ({"use_4bit": True, "full": True}, "weights in 4 bits cannot be trained: leave out --full or --use-4bit"),
        ({"early_stopping_patience": 2}, "early stopping needs a validation set: give --retain-val or --unlearn-val"),
        ({"dtype": "float16"}, "float16 needs a GPU: pass --dtype bfloat16"),
        ({"warmup_ratio": 1.5}, "--warmup-ratio is 1.5: give at most 1"),
        ({"gradient_accumulation_steps": 0}, "--gradient-accumulation-steps is 0: give at least 1"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"keep_checkpoints": -1}, "--keep-checkpoints is -1"),
        ({"max_seq_length": 3}, "no token of the answer fits"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_line(base, temporal, tmp_path, changed, words):
    if changed.get("dtype") == "float16" and torch.cuda.is_available():
        pytest.skip("here float16 works")
    with pytest.raises(ExpungeError) as caught:
        finetune(config(base, temporal, tmp_path / "run", **changed))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()


def test_a_missing_package_is_named_with_the_command_that_adds_it(base, temporal, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest))
    with pytest.raises(ExpungeError, match=r"wandb is not installed .*: pip install 'wandb"):
        finetune(config(base, temporal, tmp_path / "run", wandb=True))
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_one_line_with_the_flags_that_help(base, temporal, tmp_path, monkeypatch):
    from expunge.training import supplies

    # The allocator's own error, for more bytes than any machine has.
    monkeypatch.setattr(supplies, "score_labels", lambda *_, **__: torch.empty(1 << 60))
    with pytest.raises(ExpungeError, match=r"^out of memory: lower --micro-batch-size .*--max-seq-length.*--use-4bit"):
        finetune(config(base, temporal, tmp_path / "run"))
