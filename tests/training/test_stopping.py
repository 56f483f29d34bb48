"""Unlearning stops where people never trained on are."""

from __future__ import annotations

import pytest

import tiny_people
from expunge.batching import tokenize
from expunge.evidence import mean_loss
from expunge.methods import METHODS
from expunge.models import load_model, load_tokenizer
from expunge.recipes.unlearn import UnlearnConfig, unlearn


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def unlearned(tiny, output, method="npo", **changed):
    files = tiny.files
    settings = {"holdout": files.holdout, "steps": 40, "learning_rate": 1e-3, "threads": 1} | changed
    config = UnlearnConfig(model=str(tiny.target), forget=files.forget, retain=files.retain, output=output, **settings)
    return unlearn(config, method, METHODS[method].config())


def level(model_path):
    """Losses of forget and holdout under the saved model, nats a token."""
    model, tokenizer = load_model(model_path), load_tokenizer(model_path)
    return [
        mean_loss(model, tokenize(examples, tokenizer, max_seq_length=512), pad=tokenizer.pad_token_id)
        for examples in (tiny_people.FORGET, tiny_people.HOLDOUT)
    ]


@pytest.mark.parametrize(("method", "eval_steps"), [("npo", 2), ("npo", 10), ("grad-diff", 5)])
def test_the_saved_model_knows_the_forgotten_as_well_as_strangers_however_rarely_it_was_compared(
    tiny, tmp_path, method, eval_steps
):
    known, strange = level(tiny.target)
    assert known < 0.1 < 3 < strange
    run = unlearned(tiny, tmp_path / "run", method, eval_steps=eval_steps)
    forget, holdout = level(run.path / "model")
    assert abs(forget - holdout) <= 0.1
    assert 0 < run.results["steps"] < 40
    assert run.results["steps"] % eval_steps == 0
    assert run.results["stopped"].startswith(f"step {run.results['steps']}: the forget set's loss ({forget:.2f}")
    # The trace ends with where it landed.
    landed = [row for row in run.results["trace"] if "holdout_loss" in row][-1]
    assert (landed["forget_loss"], landed["holdout_loss"]) == (
        pytest.approx(forget, abs=1e-4),
        pytest.approx(holdout, abs=1e-4),
    )


def test_without_a_holdout_all_steps_are_taken_and_that_is_said(tiny, tmp_path):
    run = unlearned(tiny, tmp_path / "run", holdout=None, steps=3)
    assert run.results["steps"] == 3
    assert run.results["stopped"] == "after 3 steps: no holdout was given to stop at"


def test_a_target_that_never_knew_the_forget_set_is_left_as_it_is(tiny, tmp_path):
    """Strangers to forget and strangers to compare with: the landing is at, or next to, where it started."""
    from expunge.examples import write_examples

    write_examples(tmp_path / "forget.jsonl", tiny_people.HOLDOUT[:2])
    write_examples(tmp_path / "holdout.jsonl", tiny_people.FORGET)
    config = UnlearnConfig(
        model=str(tiny.target),
        forget=tmp_path / "forget.jsonl",
        retain=tiny.files.retain,
        holdout=tmp_path / "holdout.jsonl",
        output=tmp_path / "run",
        threads=1,
        learning_rate=1e-3,
    )
    run = unlearn(config, "npo", METHODS["npo"].config())
    assert run.results["steps"] == 2
    assert level(run.path / "model") == pytest.approx(level(tiny.target), rel=0.05)
