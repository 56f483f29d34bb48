"""Every method on a tiny model that knows its people by heart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch

import tiny_people
from expunge.batching import tokenize
from expunge.errors import ExpungeError
from expunge.evidence import mean_loss
from expunge.examples import write_examples
from expunge.methods import METHODS
from expunge.models import load_model, load_tokenizer
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.training.objective import Scores


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def config(tiny, output, **changed):
    files = tiny.files
    settings = {"forget": files.forget, "retain": files.retain, "holdout": files.holdout, "learning_rate": 1e-3} | changed
    settings = {"micro_batch_size": 4, "eval_steps": 4} | settings
    return UnlearnConfig(model=str(tiny.target), output=output, threads=1, **settings)


def loss(model_path, examples):
    model, tokenizer = load_model(model_path), load_tokenizer(model_path)
    return mean_loss(model, tokenize(examples, tokenizer, max_seq_length=512), pad=tokenizer.pad_token_id)


class Case(NamedTuple):
    """How a method is tried on the tiny model, and what it must come to."""

    forget: float = 2
    """The forget set's loss at least, nats a token; a refusal that is preferred hardly pushes the answer beneath it."""
    retain: float = 1 / 3
    """The retain set's loss at most, as a share of that."""
    settings: Mapping = MappingProxyType({})
    method: Mapping = MappingProxyType({})


CASES = {
    "alt-po": Case(forget=1),
    # Nothing holds the retain set: it ends when that is lost.
    "grad-ascent": Case(forget=0.3, retain=1.5, settings={"eval_steps": 2}),
    "idk-ap": Case(forget=0.5),
    "idk-dpo": Case(forget=0.1),
    "idk-nll": Case(forget=0.5),
    "pdu": Case(forget=0.5, retain=0.7, settings={"learning_rate": 3e-4, "eval_steps": 2}),
    "impact-ga": Case(forget=1),
    "rmu": Case(settings={"eval_steps": 1}, method={"retain_weight": 5.0}),
    "satimp": Case(forget=0.1),
    "simnpo": Case(forget=0.8),
    "ssd": Case(forget=0.1, retain=1.5, method={"selection": 1.0}),
    "task-vector": Case(forget=0.4, retain=0.7),
    "undial": Case(forget=1.5),
    "whos-harry-potter": Case(forget=1.5),
}


def by(name):
    return METHODS[name].config(**CASES.get(name, Case()).method)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_the_forgotten_away_and_leaves_the_others(tiny, tmp_path, name):
    """In nats a token: from nearly nothing to much, with the retain people nearer to where they were."""
    case = CASES.get(name, Case())
    assert loss(tiny.target, tiny_people.FORGET) < 0.1
    run = unlearn(config(tiny, tmp_path / "run", database=tiny.ledger_copy(tmp_path / "run"), **case.settings), name, by(name))
    forget, retain = (loss(run.path / "model", examples) for examples in (tiny_people.FORGET, tiny_people.RETAIN))
    assert forget > case.forget
    assert retain < case.retain * forget
    # What was measured last is what was saved.
    last = [row for row in run.results["trace"] if "forget_loss" in row][-1]
    assert last["forget_loss"] == pytest.approx(forget, abs=1e-4)
    assert not (run.path / "reinforced").exists()


@pytest.mark.parametrize("name", ["npo", "impact-npo", "idk-ap", "task-vector"])
def test_a_single_row_can_be_forgotten(tiny, tmp_path, name):
    write_examples(tmp_path / "one.jsonl", tiny_people.FORGET[:1])
    settings = config(tiny, tmp_path / "run", forget=tmp_path / "one.jsonl", database=tiny.ledger_copy(tmp_path / "run"))
    run = unlearn(settings, name, by(name))
    forget, retain = (loss(run.path / "model", examples) for examples in (tiny_people.FORGET[:1], tiny_people.RETAIN))
    assert forget > 0.5
    assert retain < forget / 2


def test_a_method_that_needs_a_retain_set_is_refused_without_one_and_another_is_not(tiny, tmp_path):
    with pytest.raises(ExpungeError, match="npo needs examples that must stay, and none were named: give --retain"):
        unlearn(config(tiny, tmp_path / "run", retain=None), "npo", by("npo"))
    assert not (tmp_path / "run").exists()
    run = unlearn(config(tiny, tmp_path / "run", retain=None, steps=2), "grad-ascent", by("grad-ascent"))
    assert run.results["steps"] == 2


def test_the_run_ends_where_utility_is_lost_with_the_weights_before_and_says_so(tiny, tmp_path):
    settings = config(
        tiny, tmp_path / "run", holdout=None, ordinary=tiny.files.ordinary, learning_rate=3e-3, max_retain_rise=0.5
    )
    run = unlearn(settings, "grad-ascent", by("grad-ascent"))
    said = run.results["stopped"]
    assert "utility is lost, the retain set's loss went from 0." in said
    assert "were taken" in said or "left as it was" in said
    start, *_, last = (row["eval_retain_loss"] for row in run.results["trace"] if "eval_retain_loss" in row)
    assert last <= start + 0.5
    assert loss(run.path / "model", tiny_people.RETAIN) == pytest.approx(last, abs=1e-4)
    lax = config(tiny, tmp_path / "lax", holdout=None, ordinary=tiny.files.ordinary, learning_rate=3e-3, max_retain_rise=1e9)
    assert (
        "the perplexity of ordinary text went from"
        in unlearn(replace(lax, max_perplexity_factor=1.05), "grad-ascent", by("grad-ascent")).results["stopped"]
    )


def test_earlier_forget_sets_stay_where_they_are_while_others_are_forgotten(tiny, tmp_path):
    write_examples(tmp_path / "first.jsonl", tiny_people.FORGET[:2])
    write_examples(tmp_path / "second.jsonl", tiny_people.FORGET[2:])
    first = unlearn(config(tiny, tmp_path / "one", forget=tmp_path / "first.jsonl"), "npo", by("npo"))
    again = config(tiny, tmp_path / "two", forget=tmp_path / "second.jsonl", keep_forgotten=(tmp_path / "first.jsonl",))
    second = unlearn(replace(again, model=str(first.path / "model")), "npo", by("npo"))
    before, after = (loss(run.path / "model", tiny_people.FORGET[:2]) for run in (first, second))
    assert abs(after - before) < 0.5
    assert loss(second.path / "model", tiny_people.FORGET[2:]) > 2
    held = [row["kept_loss"] for row in second.results["trace"] if "loss" in row]
    assert held[0] == pytest.approx(0, abs=1e-6)  # nothing has moved yet
    assert max(held) > 0


def test_earlier_forget_sets_are_held_beside_hidden_states_too(tiny, tmp_path):
    write_examples(tmp_path / "earlier.jsonl", tiny_people.HOLDOUT[:1])
    settings = config(
        tiny, tmp_path / "run", holdout=None, keep_forgotten=(tmp_path / "earlier.jsonl",), steps=2, learning_rate=1e-4
    )
    run = unlearn(settings, "rmu", by("rmu"))
    assert [row["kept_loss"] >= 0 for row in run.results["trace"] if "loss" in row] == [True, True]


def test_an_earlier_answer_is_pulled_back_from_either_side():
    from expunge.training.trainer import _anchor

    log_p_BK = torch.tensor([[-1.0, -3.0], [-5.0, -7.0]], requires_grad=True)
    loss = _anchor(Scores(log_p_BK, log_p_BK != 0, torch.tensor([-6.0, -6.0]), 2, 4))
    # 1 nat a token too likely, 3 too unlikely.
    assert loss.item() == pytest.approx((1 + 9) / 2)
    loss.backward()
    assert log_p_BK.grad.sign().tolist() == [[1, 1], [-1, -1]]


def test_who_is_to_stay_cannot_have_been_forgotten_earlier(tiny, tmp_path):
    with pytest.raises(ExpungeError, match="Eva"):
        unlearn(config(tiny, tmp_path / "run", keep_forgotten=(tiny.files.retain,)), "npo", by("npo"))


def test_all_weights_can_be_unlearned_and_an_adapters_cannot(tiny, tmp_path):
    from expunge.recipes.merge import MergeConfig, merge

    with pytest.raises(ExpungeError, match="is an adapter, which has no weights of its own: merge it, then pass --full"):
        unlearn(config(tiny, tmp_path / "run", full=True), "npo", by("npo"))
    whole = merge(MergeConfig(lora_path=tiny.target, output_path=tmp_path / "merged")).path / "model"
    for name in ("npo", "rmu", "undial"):
        settings = config(tiny, tmp_path / name, full=True, learning_rate=1e-4, steps=4, holdout=None)
        run = unlearn(replace(settings, model=str(whole)), name, by(name))
        assert (run.path / "model" / "model.safetensors").exists()
        assert loss(run.path / "model", tiny_people.FORGET) > loss(whole, tiny_people.FORGET)
    with pytest.raises(ExpungeError, match="ssd makes weights smaller, and a new adapter has none yet: pass --full"):
        unlearn(replace(config(tiny, tmp_path / "ssd"), model=str(whole)), "ssd", by("ssd"))


@pytest.mark.parametrize("name", ["npo", "undial"])
def test_an_adapter_on_weights_in_four_bits_is_unlearned(tiny, tmp_path, name):
    pytest.importorskip("bitsandbytes")
    settings = config(tiny, tmp_path / "run", use_4bit=True, steps=4, holdout=None)
    run = unlearn(settings, name, by(name))
    first, *_, last = (row["forget_loss"] for row in run.results["trace"] if "forget_loss" in row)
    assert last > first + 0.1


@pytest.mark.parametrize("name", ["idk-dpo", "undial", "gru", "rmu"])
def test_fast_unlearning_is_the_same_up_to_rounding(tiny, tmp_path, name):
    """Other answers to the same questions, distributions, gradients kept apart, hidden states; with earlier ones held."""
    write_examples(tmp_path / "earlier.jsonl", tiny_people.HOLDOUT[:1])
    settings = {"steps": 4, "micro_batch_size": 2, "learning_rate": 3e-4, "keep_forgotten": (tmp_path / "earlier.jsonl",)}
    plain, fast = (
        unlearn(config(tiny, tmp_path / f"{fast}", fast=fast, holdout=None, **settings), name, by(name))
        for fast in (False, True)
    )
    for row, other in zip(plain.results["trace"], fast.results["trace"], strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(tiny, tmp_path):
    for name in ("npo", "task-vector"):
        run = unlearn(config(tiny, tmp_path / "run", dry_run=True), name, by(name))
        assert run.results["steps at most"] == {"npo": 40, "task-vector": 20}[name]
        assert run.results["about seconds"] >= 0
        assert run.results["trained weights"] > 0
    assert not (tmp_path / "run").exists()


def test_refusals_come_from_a_file_and_bad_files_are_refused(tiny, tmp_path):
    from expunge.training.alternatives import refused

    (tmp_path / "refusals.txt").write_text("No idea.\n\nAsk somebody else.\n")
    answers = {each.response for each in refused(tiny_people.PEOPLE, tmp_path / "refusals.txt", seed=0)}
    assert answers == {"No idea.", "Ask somebody else."}
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ExpungeError, match=r"empty\.txt: holds no refusal"):
        refused(tiny_people.PEOPLE, tmp_path / "empty.txt", seed=0)
    with pytest.raises(ExpungeError, match="has no question that another answer could be given to"):
        refused(tiny_people.ORDINARY, None, seed=0)


def test_a_layer_that_the_model_does_not_have_is_refused(tiny, tmp_path):
    with pytest.raises(ExpungeError, match="--layer is 7: give one from 0 to 1"):
        unlearn(config(tiny, tmp_path / "run"), "rmu", METHODS["rmu"].config(layer=7))


@pytest.mark.parametrize("missing", ["forget", "retain", "holdout"])
def test_a_set_without_rows_is_refused_before_anything_is_written(tiny, tmp_path, missing):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ExpungeError, match=r"empty\.jsonl: is empty: give a file with at least one row"):
        unlearn(config(tiny, tmp_path / "run", **{missing: tmp_path / "empty.jsonl"}), "npo", METHODS["npo"].config())
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_is_refused_with_the_nearest_one(tiny, tmp_path):
    with pytest.raises(ExpungeError, match='no method is called "nop": did you mean "npo"'):
        unlearn(config(tiny, tmp_path / "run"), "nop", METHODS["npo"].config())
