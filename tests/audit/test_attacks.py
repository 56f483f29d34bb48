"""Attacks: the guidance formula by hand, prompts as text, and the whole command on a tiny model that knows people by heart."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import tiny_people
from expunge.audit.attacks import ATTACKS
from expunge.audit.attacks.extraction import asked, extract, guided, scored
from expunge.audit.attacks.relearn import halves, relearning_robustness
from expunge.audit.results import AttackResult
from expunge.audit.robust import robust
from expunge.evidence import end_tokens
from expunge.models import load_model, load_tokenizer

PRE, POST = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.2, 0.2, 0.6]]).log()


def test_guidance_of_weight_0_is_the_later_model_and_of_1_the_earlier_one():
    torch.testing.assert_close(guided(PRE, POST, weight=0, gamma=0), POST)
    torch.testing.assert_close(guided(PRE, POST, weight=1, gamma=0), PRE)


def test_guidance_beyond_1_goes_beyond_the_earlier_model():
    # log .7 + 1 · (log .7 - log .2), and so on, since log q = 2 log p_pre - log p_post.
    expected = torch.tensor([[0.7 * 0.7 / 0.2, 0.2 * 0.2 / 0.2, 0.1 * 0.1 / 0.6]]).log()
    torch.testing.assert_close(guided(PRE, POST, weight=2, gamma=0), expected)


def test_tokens_that_the_earlier_model_finds_too_unlikely_are_never_said():
    # The largest is .7: .2 is just above a quarter of it, .1 is below.
    found = guided(PRE, POST, weight=0, gamma=0.25)
    assert found.isfinite().tolist() == [[True, True, False]]
    assert found.argmax().item() != POST.argmax().item()


def test_scores_of_what_was_extracted():
    found = scored(["a b c d e f g h i", "a b and more"], ["a b c d e f g h i j", "a b"])
    assert found[:4] == pytest.approx((0.95, 1.0, 0.5, 0.0))
    assert found.edit_similarity == pytest.approx((0.9 + 0.5) / 2)


def test_extraction_in_a_batch_is_extraction_one_by_one(tmp_path_factory):
    tiny = tiny_people.target(tmp_path_factory)
    tokenizer, pre, post = load_tokenizer(tiny.target), load_model(tiny.target), load_model(tiny.base)
    texts = asked(tiny_people.FORGET, tokenizer, prefix_share=0.3, max_seq_length=512)
    options = {"weight": 1.2, "gamma": 1e-3, "max_new_tokens": 24, "ends": end_tokens(pre, tokenizer)}
    together = dict(extract(pre, post, tokenizer, texts, **options))
    for text in texts:
        assert dict(extract(pre, post, tokenizer, [text], **options))[text.id] == together[text.id]


def test_every_attack_by_words_asks_something_and_never_gives_the_answer_away():
    for name in ATTACKS:
        attack = ATTACKS[name]
        if attack.prompts is None:
            continue
        for example in tiny_people.FORGET:
            found = attack.prompts(attack.config(), example, tiny_people.RETAIN)
            assert found
            assert all(example.response not in prompt.question + prompt.begun for prompt in found)


def test_robustness_to_relearning_is_the_ratio_of_what_was_gained():
    assert relearning_robustness(0.1, 0.3, 0.1, 0.5) == pytest.approx(0.5)
    assert relearning_robustness(0.1, 0.6, 0.1, 0.3) == 1
    assert relearning_robustness(0.1, 0.3, 0.2, 0.2) is None


def test_halves_share_nobody_and_lose_nobody():
    learnt, asked_ = halves(tiny_people.RETAIN, seed=1)
    assert len(learnt) == len(asked_) == 4
    assert not {one.subject for one in learnt} & {one.subject for one in asked_}


def result(model, values):
    mean = float(np.mean(values))
    return AttackResult("paraphrase", "", model, mean, mean - 0.05, mean + 0.05, len(values), tuple(values))


@pytest.mark.parametrize(
    ("unlearned", "target", "ruling"),
    [
        ([0.2] * 6, [1.0] * 6, "pass"),
        ([0.6] * 6, [1.0] * 6, "fail"),
        ([0.2] * 6, [0.22] * 6, "not provable"),
        ([0.2] * 6, None, "not provable"),
    ],
)
def test_robust_is_ruled_against_the_retrained_model_and_needs_a_target_that_gives_itself_away(unlearned, target, ruling):
    results = [result("unlearned", unlearned), result("retrained", [0.2] * 6)]
    results += [result("target", target)] if target else []
    assert robust(results, [f"person {n}" for n in range(6)]).ruling == ruling


def run(*words):
    return subprocess.run([sys.executable, "-m", "expunge", *map(str, words)], capture_output=True, text=True, timeout=120)


def test_the_command_attacks_both_models_and_a_second_call_answers_at_once(tmp_path_factory, tmp_path):
    tiny = tiny_people.target(tmp_path_factory)
    words = ["attack", "paraphrase", "--unlearned", tiny.target, "--retrained", tiny.base, "--target", tiny.target]
    words += ["--forget", tiny.files.forget, "--output", tmp_path / "attack", "--json", "--threads", 1]
    first = run(*words)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    # A target passed off as unlearned still says everything to the question as it stands, which is one of the ways to ask.
    assert found["ruling"] == "fail"
    assert found["recall"]["unlearned"] > 0.9 > found["recall"]["retrained"]
    assert json.loads(run(*words).stdout) == found


@pytest.mark.parametrize(
    ("name", "more", "variants"),
    [
        pytest.param("role-play", (), [""], marks=pytest.mark.slow),
        pytest.param("translate", (), [""], marks=pytest.mark.slow),
        pytest.param("multi-hop", (), [""], marks=pytest.mark.slow),
        ("prefix", (), [""]),
        pytest.param("few-shot", ("--seed", 3), [""], marks=pytest.mark.slow),
        ("quantize", ("--kinds", "nf4"), [" nf4"]),
        ("relearn", ("--learning-rate", 2e-3, "--epochs", 12), [" before", " after"]),
    ],
)
def test_every_other_attack_asks_each_model_in_each_of_its_states(tmp_path_factory, tmp_path, name, more, variants):
    from expunge.recipes.attack import ATTACK

    tiny = tiny_people.target(tmp_path_factory)
    words = ["attack", name, "--unlearned", tiny.base, "--retrained", tiny.base, "--target", tiny.target, *more]
    words += ["--forget", tiny.files.forget, "--others", tiny.files.retain, "--output", tmp_path / "attack", "--json"]
    first = run(*words, "--threads", 1)
    assert first.returncode == 0, first.stderr
    recall = json.loads(first.stdout)["recall"]
    assert {f"{role}{each}" for role in ("unlearned", "retrained") for each in variants} <= {*recall}
    # The same model in both roles learns, and says, the same.
    assert [recall[f"unlearned{each}"] for each in variants] == [recall[f"retrained{each}"] for each in variants]
    assert json.loads((tmp_path / "attack" / ATTACK).read_text())["claim"]["ruling"] != "fail"
    if name == "relearn":
        assert recall["unlearned after"] > recall["unlearned before"] + 0.5
    if name == "quantize":
        assert recall["target nf4"] > 0.5 > recall["unlearned nf4"]


def test_extraction_by_command_writes_scores_and_a_plot(tmp_path_factory, tmp_path):
    tiny = tiny_people.target(tmp_path_factory)
    words = ["attack", "extraction", "--pre", tiny.target, "--post", tiny.base, "--forget", tiny.files.forget]
    found = run(*words, "--output", tmp_path / "x", "--weight", 1.4, "--json", "--threads", 1)
    assert found.returncode == 0, found.stderr
    shown = json.loads(found.stdout)
    assert shown["pre"]["recall"] > shown["post"]["recall"]
    assert "headroom" in shown["warnings"][0]
    assert (tmp_path / "x" / "extraction.svg").read_text().startswith("<svg")


def test_few_shot_without_others_is_refused(tmp_path_factory, tmp_path):
    tiny = tiny_people.target(tmp_path_factory)
    words = ["attack", "few-shot", "--unlearned", tiny.target, "--retrained", tiny.base, "--forget", tiny.files.forget]
    found = run(*words, "--output", tmp_path / "x")
    assert (found.returncode, (tmp_path / "x").exists()) == (2, False)
    assert "none were given: give --others" in found.stderr


def test_an_unknown_attack_is_refused_with_the_one_that_was_meant():
    found = run("attack", "paraphrse")
    assert found.returncode == 2
    assert "paraphrase" in found.stderr
