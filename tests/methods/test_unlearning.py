"""Every method on a tiny model that knows its people by heart."""

from __future__ import annotations

import pytest

import tiny_people
from expunge.batching import tokenize
from expunge.errors import ExpungeError
from expunge.evidence import mean_loss
from expunge.examples import write_examples
from expunge.methods import METHODS
from expunge.models import load_model, load_tokenizer
from expunge.recipes.unlearn import UnlearnConfig, unlearn


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def config(tiny, output, **changed):
    files = tiny.files
    settings = {"forget": files.forget, "retain": files.retain, "holdout": files.holdout, "learning_rate": 1e-3} | changed
    return UnlearnConfig(model=str(tiny.target), output=output, threads=1, **settings)


def loss(model_path, examples):
    model, tokenizer = load_model(model_path), load_tokenizer(model_path)
    return mean_loss(model, tokenize(examples, tokenizer, max_seq_length=512), pad=tokenizer.pad_token_id)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_the_forgotten_away_and_leaves_the_others(tiny, tmp_path, name):
    """In nats a token: from nearly nothing to what strangers have, with the retain people far nearer to where they were."""
    assert loss(tiny.target, tiny_people.FORGET) < 0.1
    ledger = tiny.ledger_copy(tmp_path / "run")
    run = unlearn(config(tiny, tmp_path / "run", database=ledger), name, METHODS[name].config())
    assert run.results["stopped"].startswith("step")
    forget, retain = (loss(run.path / "model", examples) for examples in (tiny_people.FORGET, tiny_people.RETAIN))
    assert forget > 2
    assert retain < forget / 3


@pytest.mark.parametrize("name", METHODS)
def test_a_single_row_can_be_forgotten(tiny, tmp_path, name):
    write_examples(tmp_path / "one.jsonl", tiny_people.FORGET[:1])
    settings = config(tiny, tmp_path / "run", forget=tmp_path / "one.jsonl", database=tiny.ledger_copy(tmp_path / "run"))
    run = unlearn(settings, name, METHODS[name].config())
    assert loss(run.path / "model", tiny_people.FORGET[:1]) > 1
    assert loss(run.path / "model", tiny_people.RETAIN) < loss(run.path / "model", tiny_people.FORGET[:1]) / 2


@pytest.mark.parametrize("missing", ["forget", "retain", "holdout"])
def test_a_set_without_rows_is_refused_before_anything_is_written(tiny, tmp_path, missing):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ExpungeError, match=r"empty\.jsonl: is empty: give a file with at least one row"):
        unlearn(config(tiny, tmp_path / "run", **{missing: tmp_path / "empty.jsonl"}), "npo", METHODS["npo"].config())
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_is_refused_with_the_nearest_one(tiny, tmp_path):
    with pytest.raises(ExpungeError, match='no method is called "nop": did you mean "npo"'):
        unlearn(config(tiny, tmp_path / "run"), "nop", METHODS["npo"].config())
