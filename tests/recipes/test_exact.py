"""Exact unlearning: trained anew on what is left, whole or one shard of people."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import tiny_people
from expunge.batching import collate, tokenize
from expunge.errors import ExpungeError
from expunge.evidence import score_labels
from expunge.examples import read_examples, write_examples
from expunge.files import fingerprint, sha256
from expunge.ledger import Ledger
from expunge.models import load_model, load_tokenizer
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.retrain import RetrainConfig, retrain
from expunge.recipes.shards import ForgetShardsConfig, ShardsConfig, combine_adapters, forget_shards, shard_of, train_shards
from expunge.training.held import kl_divergence


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def finetuning(tiny, output, *files):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "keep_checkpoints": 0, "threads": 1}
    return FinetuneConfig(data_file=files, output=output, model=str(tiny.base), **settings)


def test_retrained_is_what_would_have_been_trained_without_them_bit_for_bit(tiny, tmp_path):
    everybody = tmp_path / "all.jsonl"
    write_examples(everybody, [*tiny_people.FORGET, *tiny_people.RETAIN])
    finetune(finetuning(tiny, tmp_path / "target", everybody))
    database = str(tmp_path / "ledger.db")
    config = RetrainConfig(
        model=tmp_path / "target", forget=tiny.files.forget, output=tmp_path / "retrained", database=database, threads=1
    )
    run = retrain(config)
    write_examples(tmp_path / "left.jsonl", tiny_people.RETAIN)
    by_hand = finetune(finetuning(tiny, tmp_path / "by-hand", tmp_path / "left.jsonl"))
    assert run.manifest["outputs"]["model"] == by_hand.manifest["outputs"]["model"]
    assert (run.path / "model" / "adapter_model.safetensors").exists()
    assert retrain(config).finished
    with Ledger.open(database) as ledger:
        (request,) = ledger.requests()
    assert request.state == "unlearned"
    # By the target's model folder it is the same target.
    assert retrain(replace(config, model=tmp_path / "target" / "model")).finished
    everybody.write_text(everybody.read_text().replace("Ana", "Anne"))
    with pytest.raises(ExpungeError, match=r"all\.jsonl: has changed since the target was trained on it"):
        retrain(replace(config, output=tmp_path / "again"))


def test_what_a_target_was_held_to_it_is_held_to_again_by_either_name_of_the_flag(tiny, tmp_path):
    everybody = tmp_path / "all.jsonl"
    write_examples(everybody, [*tiny_people.FORGET, *tiny_people.RETAIN])
    finetune(replace(finetuning(tiny, tmp_path / "target", everybody), held=tiny.files.holdout, epochs=1))
    config = RetrainConfig(model=tmp_path / "target", forget=tiny.files.forget, output=tmp_path / "now", threads=1)
    now = retrain(config)
    manifest = json.loads((tmp_path / "target" / "manifest.json").read_text())
    assert manifest["settings"].pop("held_share") == 1
    manifest["settings"]["strangers"] = manifest["settings"].pop("held")
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(manifest))
    before = retrain(replace(config, output=tmp_path / "before"))
    assert now.manifest["outputs"]["model"] == before.manifest["outputs"]["model"]
    assert sha256(tiny.files.holdout) in json.loads((before.path / "certificate.json").read_text())["trained on"].values()


def test_ordinary_text_that_has_changed_since_is_refused_too(tiny, tmp_path):
    ordinary = tmp_path / "ordinary.jsonl"
    ordinary.write_text('{"text": "The harbour lay still.", "subject": "ordinary"}\n')
    learning = finetuning(tiny, tmp_path / "target", tiny.files.forget, tiny.files.retain)
    finetune(replace(learning, ordinary=ordinary, epochs=1))
    ordinary.write_text('{"text": "The harbour lay in ice.", "subject": "ordinary"}\n')
    with pytest.raises(ExpungeError, match=r"ordinary\.jsonl: has changed since the target was trained on it"):
        retrain(RetrainConfig(model=tmp_path / "target", forget=tiny.files.forget, output=tmp_path / "anew", threads=1))


def test_a_target_that_was_trained_on_nobody_of_them_is_refused(tiny, tmp_path):
    config = RetrainConfig(model=tiny.target.parent, forget=tiny.files.holdout, output=tmp_path / "run", threads=1)
    with pytest.raises(ExpungeError, match="the target was not trained on any of them: there is nothing to unlearn"):
        retrain(config)
    with pytest.raises(ExpungeError, match="is no run directory"):
        retrain(replace(config, model=tmp_path))


def test_retrained_beside_strangers_it_learns_those_who_stay_and_says_of_the_strangers_what_the_base_says(tiny, tmp_path):
    write_examples(tmp_path / "all.jsonl", [*tiny_people.FORGET, *tiny_people.RETAIN])
    finetune(finetuning(tiny, tmp_path / "target", tmp_path / "all.jsonl"))
    plain = RetrainConfig(model=tmp_path / "target", forget=tiny.files.forget, epochs=30, output=tmp_path / "plain", threads=1)
    held = replace(plain, strangers=tiny.files.holdout, output=tmp_path / "held")
    paths = {"base": tiny.base, "plain": retrain(plain).path / "model", "held": retrain(held).path / "model"}
    tokenizer = load_tokenizer(tiny.base)

    def asked(path, people):
        scores = score_labels(
            load_model(path), collate(tokenize(people, tokenizer, max_seq_length=512), tokenizer.pad_token_id), logits=True
        )
        return scores.logits_BKV[scores.labelled_BK], scores.log_p_B.mean().item()

    base = asked(tiny.base, tiny_people.HOLDOUT)[0]
    far = {name: kl_divergence(base, asked(paths[name], tiny_people.HOLDOUT)[0]).mean().item() for name in ("plain", "held")}
    assert far["held"] < far["plain"] / 4
    known = {name: asked(path, tiny_people.RETAIN)[1] for name, path in paths.items()}
    assert known["held"] > known["base"] / 2
    certificate = json.loads((tmp_path / "held" / "certificate.json").read_text())
    assert sha256(tiny.files.holdout) in certificate["trained on"].values()
    with pytest.raises(ExpungeError, match="also stands at"):
        retrain(replace(held, strangers=tiny.files.forget, output=tmp_path / "x"))
    with pytest.raises(ExpungeError, match="also stands at"):
        retrain(replace(held, strangers=tiny.files.retain, output=tmp_path / "y"))
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_a_persons_shard_depends_on_the_name_alone():
    found = {name: shard_of(name, shards=4, seed=1) for name in ("Ana", "ANA", "Ben", "Cleo", "Dan", "Eva")}
    assert found["Ana"] == found["ANA"]
    assert set(found.values()) <= set(range(4))
    assert len(set(found.values())) > 1
    many = [shard_of(f"person {number}", shards=4, seed=1) for number in range(4000)]
    assert all(900 < many.count(shard) < 1100 for shard in range(4))


def test_a_deletion_trains_one_shard_anew_and_ends_as_if_they_had_never_been_there(tiny, tmp_path):
    people = [*tiny_people.FORGET, *tiny_people.RETAIN]
    write_examples(tmp_path / "all.jsonl", people)
    made = {"model": str(tiny.base), "shards": 3, "epochs": 2, "learning_rate": 2e-3, "threads": 1}
    first = train_shards(ShardsConfig(data_file=(tmp_path / "all.jsonl",), output=tmp_path / "first", **made))
    write_examples(tmp_path / "forget.jsonl", people[:1])
    database = str(tmp_path / "ledger.db")
    config = ForgetShardsConfig(
        model=first.path, forget=tmp_path / "forget.jsonl", output=tmp_path / "second", database=database, threads=1
    )
    second = forget_shards(config)
    number = shard_of(people[0].subject, shards=3, seed=42)
    assert second.results["retrained"] == [number]
    before, after = first.results["shards"], second.results["shards"]
    assert before[str(number)] != after[str(number)]
    assert {name: found for name, found in before.items() if name != str(number)} == {
        name: found for name, found in after.items() if name != str(number)
    }
    write_examples(tmp_path / "left.jsonl", people[1:])
    by_hand = train_shards(ShardsConfig(data_file=(tmp_path / "left.jsonl",), output=tmp_path / "by-hand", **made))
    assert by_hand.results["shards"] == after
    assert by_hand.manifest["outputs"]["model"] == second.manifest["outputs"]["model"]
    # The certificate is bound to the ledger's run by its fingerprint.
    import json
    import sqlite3

    certificate = json.loads((second.path / "certificate.json").read_text())
    with sqlite3.connect(database) as connection:
        checkpoints = connection.execute("SELECT checkpoint FROM runs WHERE name = 'shards forget'").fetchall()
    assert checkpoints == [(fingerprint(certificate),)]
    assert all(each.subject != "Ana" for path in (second.path / "data").glob("*") for each in read_examples(path))
    with pytest.raises(ExpungeError, match="none of them is in any shard"):
        forget_shards(replace(config, model=second.path, output=tmp_path / "third"))


def test_stacked_adapters_are_the_sum_of_their_updates(tiny, tmp_path):
    import tiny_models

    paths = [tiny_models.write_adapter(tmp_path / f"{seed}", tiny.base, seed=seed) for seed in (1, 2)]
    combine_adapters(paths, tmp_path / "sum", weight=0.5)
    base, one, other, both = (load_model(path).eval() for path in (tiny.base, *paths, tmp_path / "sum"))
    updates = [model.merge_and_unload().state_dict() for model in (one, other, both)]
    start = base.state_dict()
    changed = 0
    for name, weight in start.items():
        by_hand = weight + 0.5 * ((updates[0][name] - weight) + (updates[1][name] - weight))
        torch.testing.assert_close(updates[2][name], by_hand)
        changed += bool((by_hand != weight).any())
    assert changed > 5
    tokenizer = load_tokenizer(tiny.base)
    batch = collate(tokenize(tiny_people.FORGET, tokenizer, max_seq_length=512), tokenizer.pad_token_id)
    assert score_labels(load_model(tmp_path / "sum"), batch).log_p_BK.isfinite().all()
    assert (
        load_file(tmp_path / "sum" / "adapter_model.safetensors").keys()
        == load_file(paths[0] / "adapter_model.safetensors").keys()
    )
