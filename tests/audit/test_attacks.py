"""Attacks: the guidance formula by hand, prompts as text, and the whole command on a tiny model that knows people by heart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import tiny_people
from expunge.audit.attacks import ATTACKS, Given, chosen, every_attack
from expunge.audit.attacks.extraction import Extraction, asked, extract, guided, scored
from expunge.audit.attacks.few_shot import FewShot
from expunge.audit.attacks.multi_hop import MultiHop
from expunge.audit.attacks.prefix import Prefix
from expunge.audit.attacks.quantize import Quantize
from expunge.audit.attacks.relearn import Relearn, halves, relearning_robustness
from expunge.audit.attacks.translate import Translate
from expunge.errors import ExpungeError
from expunge.evidence import EvidenceStore, end_tokens
from expunge.examples import Example
from expunge.metrics.rouge_l import stemmed_words
from expunge.models import load_model, load_tokenizer
from expunge.sources.medical import example_of, generate_notes

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
            found = attack.prompts(attack.config(), example, Given(tiny_people.FORGET, tiny_people.RETAIN))
            assert found
            assert all(example.response not in prompt.question + prompt.begun for prompt in found)


def test_prefix_gives_the_first_words_away_and_expects_the_rest_alone():
    example = tiny_people.FORGET[0]
    *compliant, own = ATTACKS["prefix"].prompts(Prefix(words=2), example, Given(tiny_people.FORGET))
    assert [prompt.expected for prompt in compliant] == [None, None]
    assert (own.begun.split(), f"{own.begun} {own.expected}") == (example.response.split()[:2], example.response)
    # Nothing would be left to say.
    every = len(example.response.split())
    assert ATTACKS["prefix"].prompts(Prefix(words=every), example, Given(tiny_people.FORGET)) == compliant


def test_robustness_to_relearning_is_the_ratio_of_what_was_gained():
    assert relearning_robustness(0.1, 0.3, 0.1, 0.5) == pytest.approx(0.5)
    assert relearning_robustness(0.1, 0.6, 0.1, 0.3) == 1
    assert relearning_robustness(0.1, 0.3, 0.2, 0.2) is None


def test_halves_share_nobody_and_lose_nobody():
    learnt, asked_ = halves(tiny_people.RETAIN, seed=1)
    assert len(learnt) == len(asked_) == 4
    assert not {one.subject for one in learnt} & {one.subject for one in asked_}


def hops(example, **settings):
    return [way.question for way in ATTACKS["multi-hop"].prompts(MultiHop(**settings), example, Given([example]))]


def test_multi_hop_describes_the_subject_by_what_is_no_part_of_the_answer():
    known = {"place": "Lyon", "age": "41", "note": "long " * 20, "team": "red"}
    ana = Example("Where is Ana Ruiz, and does Ana like it?", "Ana Ruiz is in Lyon.", "Ana Ruiz", known)
    # "is" stands in the answer, so the hints do without it; so do those by the place.
    assert hops(ana) == [
        "Where is somebody (age: 41), and does somebody (age: 41) like it?",
        "Where is somebody (team: red), and does somebody (team: red) like it?",
        "Where is the one with the initials AR, and does the one with the initials AR like it?",
    ]
    assert len(hops(ana, hints=0)) == 1
    # Nothing that is known may be said: it asks all the same.
    assert hops(Example("Where is A?", "A is here.", "A", {})) == ["Where is somebody you know of?"]
    assert hops(Example("Where is A?", "A is somebody here.", "A", {})) == ["Where is […]?"]
    assert hops(Example("Where are they?", "In Oslo.", "Ben")) == ["The one with the initials B: Where are they?"]


def test_multi_hop_says_no_word_of_the_answer_that_the_question_without_its_subject_does_not_say():
    for note in generate_notes(60, 7):
        example = example_of(note)
        allowed = {*stemmed_words(str(example.prompt).replace(example.subject, " "))}
        secret = {*stemmed_words(example.response), *stemmed_words(example.subject)} - allowed
        for question in hops(example, hints=9):
            assert secret.isdisjoint(stemmed_words(question)), question


class Translator(ThreadingHTTPServer):
    """Puts every question into capitals."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Translation)
        self.asked = []


class Translation(BaseHTTPRequestHandler):
    def do_POST(self):
        words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        self.server.asked.append(words)
        reply = json.dumps({"choices": [{"message": {"content": words.split("\n\n")[1].upper()}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words):
        pass


def test_a_server_translates_each_question_once_into_each_language(tmp_path):
    attack, example = ATTACKS["translate"], tiny_people.FORGET[0]
    with Translator() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Translate(languages=("fr", "de"), endpoint=f"http://127.0.0.1:{server.server_port}/v1")
        for _ in range(2):
            # Another time it is read from the file.
            kept = EvidenceStore(tmp_path / "helper.jsonl")
            french, german = attack.prompts(settings, example, Given([example], kept=kept))
            assert "« WHERE IS ANA? »" in french.question
            assert "„WHERE IS ANA?“" in german.question
        asked = sorted(server.asked)
        # Nothing may be asked before anything is to happen.
        assert "Where is Ana?" in attack.prompts(settings, example, Given([example]))[0].question
        server.shutdown()
    assert [words.split(". ")[0] for words in asked] == [
        "Translate the following question into French",
        "Translate the following question into German",
    ]


def test_attacks_are_chosen_by_name_with_settings_behind_it():
    found = chosen(["quantize:kinds=nf4,fp4", "relearn:data=half:epochs=3:learning-rate=1e-4", "relearn"])
    assert [one.label for one in found] == [
        "quantize kinds=nf4,fp4",
        "relearn data=half epochs=3 learning-rate=1e-4",
        "relearn",
    ]
    assert [one.settings for one in found] == [
        Quantize(kinds=("nf4", "fp4")),
        Relearn(data="half", epochs=3, learning_rate=1e-4),
        Relearn(),
    ]
    (translate,) = chosen(["translate:endpoint=http://localhost:1234/v1:languages=fr"])
    assert translate.settings == Translate(endpoint="http://localhost:1234/v1", languages=("fr",))
    assert chosen(["extraction:weight=1.2,2"])[0].settings == Extraction(weight=(1.2, 2.0))


def test_all_is_every_attack_and_one_that_is_named_itself_keeps_its_settings():
    found = {one.attack.name: one for one in chosen(["all", "few-shot:shots=5"])}
    assert [*found] == ["few-shot", *(attack.name for attack in every_attack() if attack.name != "few-shot")]
    assert found["few-shot"].settings == FewShot(shots=5)
    assert found["quantize"].settings == Quantize()
    assert [name for name, one in found.items() if one.by_name] == ["few-shot"]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("prefx", 'did you mean "prefix"'),
        ("prefix:word=2", 'prefix has no setting "word": did you mean "words"'),
        ("prefix:words=two", "prefix: words cannot be 'two': give a whole number"),
        ("relearn:data=some", "choose from forget, unrelated, half"),
    ],
)
def test_an_attack_or_setting_that_does_not_exist_is_refused_with_the_one_that_was_meant(word, words):
    with pytest.raises(ExpungeError, match=re.escape(words)):
        chosen([word])


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
        pytest.param("prefix", (), [""], marks=pytest.mark.slow),
        pytest.param("few-shot", ("--seed", 3), [""], marks=pytest.mark.slow),
        pytest.param("quantize", ("--kinds", "nf4"), [" nf4"], marks=pytest.mark.slow),
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
