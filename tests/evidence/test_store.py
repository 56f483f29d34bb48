"""Evidence on disk and the passes that make it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import tiny_models
import tiny_people
from expunge.batching import prompt_tokens, tokenize
from expunge.evidence import EvidenceStore, Unanswered, passes, record_answers, record_scores, score_labels
from expunge.models import load_model, load_tokenizer


class Counted:
    """A bar that counts, and can stand for a kill after so many steps."""

    def __init__(self, kill_after=10**9):
        self.steps, self._left = 0, kill_after

    def advance(self, steps=1, **numbers):
        self.steps += steps
        if self.steps >= self._left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tiny_models.write_model(tmp_path_factory.mktemp("evidence") / "model", hidden=64)
    return load_model(path), load_tokenizer(path)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(passes, "_MOST_TOKENS", 200)
    monkeypatch.setattr(passes, "answered_together", lambda *_: 3)


def tokens_of(tokenizer):
    return tokenize(tiny_people.PEOPLE, tokenizer, max_seq_length=512)


def score_all(tiny, path, bar=None):
    model, tokenizer = tiny
    store = EvidenceStore(path)
    record_scores(model, tokens_of(tokenizer), store, pad=tokenizer.pad_token_id, bar=bar or Counted())
    return store


def answer_all(tiny, path, bar=None):
    store = EvidenceStore(path)
    record_answers(*tiny, [Unanswered(tiny_people.PEOPLE, store, 6)], bar=bar or Counted())
    return store


def kept(store):
    return [
        (record.id, record.log_p_T.tolist(), record.hits_T.tolist(), record.generated)
        for record in (store[example.id] for example in tiny_people.PEOPLE)
    ]


def test_what_is_recorded_is_read_back_to_six_digits(tmp_path):
    store = EvidenceStore(tmp_path / "new" / "evidence.jsonl")
    store.add_scores("a", np.array([-0.1234567, -12.5], dtype=np.float32), np.array([True, False]))
    store.add_answer("a", "Ana is in\nLyon. “Ó”")
    store.add_answer("b", "")
    for again in (store, EvidenceStore(tmp_path / "new" / "evidence.jsonl")):
        assert again["a"].log_p_T.tolist() == pytest.approx([-0.123457, -12.5], abs=1e-7)
        assert again["a"].hits_T.tolist() == [True, False]
        assert again["a"].generated == "Ana is in\nLyon. “Ó”"
        assert again["b"].generated == ""
        assert again["b"].log_p_T is None
        assert ("a", "scores") in again
        assert ("b", "scores") not in again
        assert ("b", "generated") in again
        assert ("c", "generated") not in again


@pytest.mark.parametrize("cut", [1, 2, 9, -1])
def test_a_line_that_a_kill_cut_off_is_dropped_and_recorded_again(tmp_path, cut):
    """Cut by its line's end alone, in its middle, or with only its first byte left."""
    path = tmp_path / "evidence.jsonl"
    store = EvidenceStore(path)
    store.add_answer("a", "first")
    first = path.read_bytes()
    store.add_answer("b", "second “é”")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] if cut > 0 else whole[: len(first) + 1])

    again = EvidenceStore(path)
    assert again["a"].generated == "first"
    assert ("b", "generated") not in again
    assert path.read_bytes() == first
    again.add_answer("b", "second “é”")
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kill_after", [1, 4, 9, 15])
def test_a_pass_that_was_killed_ends_with_the_records_of_an_undisturbed_one(tiny, tmp_path, small_batches, kill_after):
    path, undisturbed = tmp_path / "killed.jsonl", tmp_path / "undisturbed.jsonl"
    score_all(tiny, undisturbed)
    expected = kept(answer_all(tiny, undisturbed))
    for everything in (score_all, answer_all):
        with contextlib.suppress(KeyboardInterrupt):
            everything(tiny, path, Counted(kill_after))
        # The last line is cut off: its batch is composed as before, not of what is left.
        path.write_bytes(path.read_bytes()[:-5])
        bar = Counted()
        store = everything(tiny, path, bar)
        assert bar.steps == len(tiny_people.PEOPLE)
    assert kept(store) == expected
    assert kept(EvidenceStore(path)) == expected


def test_a_second_pass_asks_the_model_nothing(tiny, tmp_path):
    path = tmp_path / "evidence.jsonl"
    score_all(tiny, path)
    answer_all(tiny, path)
    before = path.read_bytes()
    tokenizer = tiny[1]
    record_scores(None, tokens_of(tokenizer), EvidenceStore(path), pad=2, bar=Counted())
    record_answers(None, tokenizer, [Unanswered(tiny_people.PEOPLE, EvidenceStore(path), 6)], bar=Counted())
    assert path.read_bytes() == before


def test_scores_are_those_of_the_kernel_for_each_example_alone(tiny, tmp_path):
    from expunge.batching import collate

    model, tokenizer = tiny
    store = score_all(tiny, tmp_path / "evidence.jsonl")
    for example in tokens_of(tokenizer):
        with torch.inference_mode():
            alone = score_labels(model, collate([example], tokenizer.pad_token_id), hits=True)
        # Six digits are kept of a sum that a batch rounds in another order.
        assert store[example.id].log_p_T.tolist() == pytest.approx(alone.log_p_BK[0].tolist(), abs=2e-5)
        assert store[example.id].hits_T.tolist() == alone.hits_BK[0].tolist()


def test_answers_are_those_of_generating_one_by_one(tmp_path_factory, tmp_path):
    """Of a model that knows some of the answers, and ends them."""
    tiny = tiny_people.target(tmp_path_factory)
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    store = EvidenceStore(tmp_path / "evidence.jsonl")
    # Prompts of several lengths in one batch.
    examples = [*tiny_people.PEOPLE, *(type(e)(f"{e.prompt} Say it.", e.response, e.subject) for e in tiny_people.PEOPLE[:3])]
    record_answers(model, tokenizer, [Unanswered(examples, store, 24)], bar=Counted())
    for example in examples:
        prompt = torch.tensor([prompt_tokens(example.prompt, tokenizer)])
        output = model.generate(input_ids=prompt, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        alone = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()
        assert store[example.id].generated == alone
    for example in tiny_people.FORGET:
        assert store[example.id].generated == example.response


@pytest.mark.parametrize("kill_after", [1, 5, 13])
def test_sets_that_are_answered_together_are_answered_as_one_by_one_and_resumed_as_undisturbed(
    tiny, tmp_path, small_batches, kill_after
):
    model, tokenizer = tiny

    def answered(name, sets, bar):
        stores = [EvidenceStore(tmp_path / f"{name}-{place}.jsonl") for place in range(len(sets))]
        unanswered = [Unanswered(people, store, most) for (people, most), store in zip(sets, stores, strict=True)]
        record_answers(model, tokenizer, unanswered, bar=bar)
        return [[store[person.id].generated for person in people] for (people, _), store in zip(sets, stores, strict=True)]

    sets = [(tiny_people.FORGET, 3), (tiny_people.RETAIN, 9)]
    alone = [answered(f"alone-{place}", [each], Counted())[0] for place, each in enumerate(sets)]
    with contextlib.suppress(KeyboardInterrupt):
        answered("together", sets, Counted(kill_after))
    bar = Counted()
    assert answered("together", sets, bar) == alone
    assert bar.steps == 12
    # A set that is whole is not asked again for the sake of a new one.
    before = (tmp_path / "together-0.jsonl").read_bytes()
    assert answered("together", [sets[0], sets[1], (tiny_people.HOLDOUT, 4)], bar)[:2] == alone
    assert (tmp_path / "together-0.jsonl").read_bytes() == before
