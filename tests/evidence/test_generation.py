"""Generating in batches, against transformers' own `generate` and against one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import tiny_models
import tiny_people
from expunge.batching import prompt_tokens
from expunge.evidence import Sampling, batches_of_prompts, end_tokens, generate
from expunge.evidence import growing as growing_past
from expunge.evidence.stem import common_stem
from expunge.models import load_model, load_tokenizer

QUESTIONS = [*(person.prompt for person in tiny_people.PEOPLE), "Ana?", "Where is Ben? Say it, and say no more than that."]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that knows some of the answers and ends them, each after another number of tokens."""
    made = tiny_people.target(tmp_path_factory)
    model, tokenizer = load_model(made.target), load_tokenizer(made.target)
    return model, [prompt_tokens(question, tokenizer) for question in QUESTIONS], end_tokens(model, tokenizer)


def test_greedy_answers_are_those_of_transformers(tiny):
    model, prompts, ends = tiny
    answers = generate(model, prompts, max_new_tokens=20, ends=ends)
    assert len({len(answer) for answer in answers}) > 3
    for prompt, answer in zip(prompts, answers, strict=True):
        output = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=2)[0, len(prompt) :]
        assert answer == [token for token in output.tolist() if token not in ends]


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_batch(tiny):
    model, prompts, ends = tiny
    options = {"max_new_tokens": 12, "ends": ends}
    seeds = list(range(len(prompts)))
    together = generate(model, prompts, sampling=Sampling(seeds, 1.5), **options)
    for prompt, seed, answer in zip(prompts, seeds, together, strict=True):
        assert generate(model, [prompt], sampling=Sampling([seed], 1.5), **options) == [answer]
    assert generate(model, prompts, sampling=Sampling([seed + 99 for seed in seeds], 1.5), **options) != together


def test_tokens_are_drawn_as_often_as_the_model_finds_them_likely(tiny):
    model, prompts, _ = tiny
    with torch.inference_mode():
        expected = (model(input_ids=torch.tensor(prompts[:1])).logits[0, -1] / 2).softmax(-1)
    drawn = generate(model, prompts[:1] * 2000, max_new_tokens=1, ends=(), sampling=Sampling(range(2000), 2.0))
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(expected)) / 2000
    # Four standard deviations of a share of 2000 draws.
    assert (counts - expected).abs().max() < 4 * (0.25 / 2000) ** 0.5


def test_two_models_are_asked_at_once_and_what_is_said_is_read_by_both(tiny, tmp_path):
    model, prompts, ends = tiny
    other = load_model(tiny_models.write_model(tmp_path / "other", hidden=64, seed=5))
    options = {"max_new_tokens": 10, "ends": ends}
    for combine, alone in ((lambda first, _: first, model), (lambda _, second: second, other)):
        found = generate([model, other], prompts, combine=combine, **options)
        assert found == generate(alone, prompts, **options)
    mixed = generate([model, other], prompts[:1], combine=lambda first, second: first + second, **options)[0]
    read = list(prompts[0])
    for token in mixed:
        with torch.inference_mode():
            logits = [one(input_ids=torch.tensor([read])).logits[0, -1] for one in (model, other)]
        assert token == int((logits[0] + logits[1]).argmax())
        read.append(token)


def test_the_longest_prompts_come_first_and_each_once():
    assert batches_of_prompts([[1], [1, 2, 3], [1, 2], [4, 5]], together=3) == [[1, 2, 3], [0]]


def test_what_all_prompts_begin_with_is_read_once_and_answers_stay_the_same(tiny):
    model, prompts, ends = tiny
    prompts = [[*range(10, 22), *prompt] for prompt in prompts]
    stem = common_stem(model, prompts)
    assert stem is not None
    assert stem.length >= 12
    assert generate(model, prompts, max_new_tokens=20, ends=ends, stem=stem) == generate(
        model, prompts, max_new_tokens=20, ends=ends
    )


def test_a_past_with_room_to_grow_holds_what_transformers_own_does(monkeypatch):
    monkeypatch.setattr(growing_past, "_ROOM", 3)
    chance = torch.Generator().manual_seed(0)
    plain, roomy = DynamicCache(), DynamicCache()
    for past in (plain, roomy):
        past.update(torch.ones(4, 2, 5, 8), -torch.ones(4, 2, 5, 8), 0)
    roomy = growing_past.growing(roomy)
    for step in range(12):
        if step in (4, 9):
            # The first order copies everything, the second moves the last row into the first one's place.
            rows = torch.tensor([2, 0, 3]) if step == 4 else torch.tensor([2, 1])
            plain.reorder_cache(rows)
            roomy.reorder_cache(rows)
        new = torch.randn((2, len(plain.layers[0].keys), 2, 1, 8), generator=chance)
        for expected, found in zip(plain.update(*new, 0), roomy.update(*new, 0), strict=True):
            assert torch.equal(found, expected)
    assert roomy.get_seq_length() == plain.get_seq_length() == 17


def test_a_dropped_row_costs_one_row_and_the_others_stay_where_they_are():
    kept = [True, False, True, False, True, True]
    assert growing_past.kept_in_place(kept) == [0, 5, 2, 4]
    assert growing_past.kept_in_place([True, True, False]) == [0, 1]
    past = DynamicCache()
    past.update(torch.arange(6.0).view(6, 1, 1, 1), torch.zeros(6, 1, 1, 1), 0)
    past = growing_past.growing(past)
    assert growing_past.grows(past)
    past.update(torch.ones(6, 1, 1, 1), torch.ones(6, 1, 1, 1), 0)
    memory = past.layers[0].keys.data_ptr()
    past.reorder_cache(torch.tensor(growing_past.kept_in_place(kept)))
    assert past.layers[0].keys[:, 0, 0, 0].tolist() == [0, 5, 2, 4]
    assert past.layers[0].keys.data_ptr() == memory
    plain = DynamicCache()
    plain.update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0)
    assert not growing_past.grows(plain)
