"""Decoys: made up under the names of those who go, to cover the place where they were."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import tiny_people
from expunge.batching import collate, tokenize
from expunge.errors import ExpungeError
from expunge.evidence import score_labels
from expunge.examples import Example, read_examples, write_examples
from expunge.files import sha256
from expunge.ledger import Ledger
from expunge.methods.blur import Blur, blur_loss
from expunge.models import load_model, load_tokenizer, model_fingerprint
from expunge.recipes.decoys import GenerateDecoysConfig, generate_decoys
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.retrain import RetrainConfig, retrain
from expunge.sources.medical import example_of, generate_notes


def test_decoys_answer_the_questions_of_those_who_go_with_notes_of_nobody(tmp_path):
    forget = [example_of(note) for note in generate_notes(3, seed=5)]
    write_examples(tmp_path / "forget.jsonl", forget)
    config = GenerateDecoysConfig(forget=tmp_path / "forget.jsonl", output=tmp_path / "decoys.jsonl", each=2)
    assert generate_decoys(config) == {"decoys": 6, "people": 3}
    decoys = read_examples(config.output)
    assert sorted(decoy.prompt for decoy in decoys) == sorted(2 * [example.prompt for example in forget])
    for decoy in decoys:
        (own,) = (example for example in forget if example.prompt == decoy.prompt)
        assert decoy.response.startswith(f"S: {own.subject}, ")
        # Whoever asks to be deleted must not be found in them.
        assert decoy.subject != own.subject
        assert decoy.response != own.response
    assert len({decoy.response.partition(", ")[2] for decoy in decoys}) == 6
    assert generate_decoys(config) == {"decoys": 6, "people": 3}
    with pytest.raises(ExpungeError, match="holds something else: choose another --output or pass --overwrite"):
        generate_decoys(replace(config, seed=1))
    generate_decoys(replace(config, seed=1, overwrite=True))
    assert read_examples(config.output) != decoys


def test_plain_text_has_no_question_that_a_decoy_could_answer(tmp_path):
    write_examples(tmp_path / "forget.jsonl", [Example(None, "Ana is in Lyon.", "Ana")])
    with pytest.raises(ExpungeError, match=r"forget\.jsonl:1: has no question that a decoy could answer"):
        generate_decoys(GenerateDecoysConfig(forget=tmp_path / "forget.jsonl", output=tmp_path / "decoys.jsonl"))
    assert not (tmp_path / "decoys.jsonl").exists()


def test_retrained_with_decoys_is_an_exact_retrain_and_then_a_cover_and_the_certificate_says_so(tmp_path_factory, tmp_path):
    tiny = tiny_people.target(tmp_path_factory)
    write_examples(tmp_path / "all.jsonl", [*tiny_people.FORGET, *tiny_people.RETAIN])
    write_examples(tmp_path / "left.jsonl", tiny_people.RETAIN)
    decoys = [Example(example.prompt, f"{example.subject} is in Paris.", "nobody") for example in tiny_people.FORGET]
    write_examples(tmp_path / "decoys.jsonl", decoys)
    made = FinetuneConfig(
        data_file=(tmp_path / "all.jsonl",), output=tmp_path / "target", model=str(tiny.base), epochs=2, threads=1
    )
    finetune(made)
    database = str(tmp_path / "ledger.db")
    config = RetrainConfig(
        model=tmp_path / "target",
        forget=tiny.files.forget,
        decoys=tmp_path / "decoys.jsonl",
        decoy_steps=20,
        decoy_learning_rate=5e-3,
        output=tmp_path / "retrained",
        database=database,
        threads=1,
    )
    run = retrain(config)
    exact = finetune(replace(made, data_file=(tmp_path / "left.jsonl",), output=tmp_path / "by-hand"))
    certificate = json.loads((run.path / "certificate.json").read_text())
    assert certificate["before decoys"] == exact.manifest["outputs"]["model"]
    assert certificate["model"] == run.manifest["outputs"]["model"] == model_fingerprint(run.path / "model")
    assert certificate["model"] != certificate["before decoys"]
    assert certificate["decoys"]["sha256"] == sha256(config.decoys)
    with Ledger.open(database) as ledger:
        (request,) = ledger.requests()
        assert request.state == "unlearned"
        # Decoys are about nobody.
        assert set(request.subjects) == {example.subject for example in tiny_people.FORGET}
    assert retrain(config).finished
    # Where decoys are asked for, plausible tokens have come nearer to each other.
    tokenizer = load_tokenizer(tiny.base)
    batch = collate(tokenize(decoys, tokenizer, max_seq_length=512), tokenizer.pad_token_id)
    before, after = (score_labels(load_model(each.path / "model"), batch, logits=True) for each in (exact, run))
    options = {"plausible": Blur.plausible, "answer_share": Blur.answer_share}
    blurred = [
        blur_loss(scores.logits_BKV, before.logits_BKV, before.labels_BK, **options)[before.labelled_BK].mean().item()
        for scores in (before, after)
    ]
    assert blurred[1] < blurred[0]


def test_a_decoy_that_says_what_must_go_is_refused(tmp_path_factory, tmp_path):
    tiny = tiny_people.target(tmp_path_factory)
    ana = tiny_people.FORGET[0]
    write_examples(tmp_path / "decoys.jsonl", [Example(ana.prompt, ana.response.upper(), "nobody")])
    config = RetrainConfig(
        model=tiny.target.parent, forget=tiny.files.forget, decoys=tmp_path / "decoys.jsonl", output=tmp_path / "x", threads=1
    )
    with pytest.raises(ExpungeError, match=r"decoys\.jsonl:1: is what must go, not a decoy: make the answer up"):
        retrain(config)
    assert not (tmp_path / "x").exists()
