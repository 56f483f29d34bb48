"""Weights from recorded impacts: by hand, from a real ledger, and what they do to a tiny model."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_people
from expunge.batching import Tokenized, tokenize
from expunge.errors import ExpungeError
from expunge.evidence import label_log_p, losses
from expunge.examples import Example, write_examples
from expunge.ledger import Ledger, TokenImpact, TopToken
from expunge.methods import METHODS
from expunge.methods.impact_ga import ImpactGa, impact_ga_loss
from expunge.methods.impact_npo import ImpactNpo, impact_npo_loss
from expunge.methods.npo import Npo, npo_loss
from expunge.models import load_model, load_tokenizer
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.training.weighting import impact_weights, label_weights


def impact(impacts, total=6):
    return TokenImpact(total, [TopToken(9, place, value, place, place + 1) for place, value in impacts.items()])


@pytest.mark.parametrize(
    ("impacts", "floor", "expected"),
    [
        # Labelled: positions 2 to 5. A token that was not kept weighs a tenth of the least that was.
        ({4: 3.0, 5: 1.0}, 0.1, [0.1, 0.1, 3.0, 1.0]),
        ({4: 3.0, 5: 1.0}, 0.0, [0.0, 0.0, 3.0, 1.0]),
        ({4: 3.0, 5: 1.0}, 1.0, [1.0, 1.0, 3.0, 1.0]),
        # The prompt's impacts set the least, but weigh nothing themselves.
        ({0: 9.0, 1: 0.5, 3: 2.0}, 0.1, [0.05, 2.0, 0.05, 0.05]),
        ({0: 9.0, 1: 5.0}, 0.1, [1, 1, 1, 1]),
        ({0: 9.0, 1: 5.0}, 0.0, [1, 1, 1, 1]),
        # What helps the model to be wrong is no part of what it learnt.
        ({2: -4.0, 3: 2.0}, 0.5, [0.0, 2.0, 1.0, 1.0]),
        ({2: 0.0}, 0.1, [1, 1, 1, 1]),
        ({}, 0.1, [1, 1, 1, 1]),
    ],
)
def test_weights_are_in_proportion_to_impact_with_mean_one_over_the_labelled_tokens(impacts, floor, expected):
    found = impact_weights(impact(impacts), start=2, tokens=6, floor=floor)
    assert found.tolist() == pytest.approx((np.array(expected) / np.mean(expected)).tolist(), rel=1e-6)
    assert found.mean() == pytest.approx(1)


def test_random_weights_are_the_recorded_ones_in_another_order_and_the_same_every_time():
    examples = [Tokenized(name, tuple(range(40)), 2, False) for name in "ab"]
    recorded = {"a": impact({place: float(place) for place in range(3, 33)}, 40)}
    made = {
        weights: label_weights(examples, recorded, weights=weights, floor=0.1, seed=1)
        for weights in ("recorded", "random", "uniform")
    }
    first, shuffled = made["recorded"][0], made["random"][0]
    assert first[30] > first[1]
    assert sorted(first.tolist()) == sorted(shuffled.tolist())
    assert first.tolist() != shuffled.tolist()
    again, other = (label_weights(examples, recorded, weights="random", floor=0.1, seed=seed)[0] for seed in (1, 2))
    assert again.tolist() == shuffled.tolist() != other.tolist()
    assert made["uniform"][0].tolist() == made["recorded"][1].tolist() == [1.0] * 38


def test_impact_npo_by_hand_and_with_equal_weights_npo_itself():
    log_p_BK = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, 0.0]])
    weight_BK = torch.tensor([[2.0, 0.5, 0.5], [0.5, 1.5, 0.0]])
    reference_B = torch.tensor([-0.25, -1.0])
    by_hand = [4 * math.log1p(math.exp(0.5 * (weighted + ref))) for weighted, ref in ((-3.25, 0.25), (-3.0, 1.0))]
    assert impact_npo_loss(log_p_BK, weight_BK, reference_B, 0.5).tolist() == pytest.approx(by_hand, rel=1e-5)
    even = impact_npo_loss(log_p_BK, torch.ones_like(log_p_BK), reference_B, 0.5)
    assert even.tolist() == npo_loss(log_p_BK.sum(1), reference_B, 0.5).tolist()


def test_both_losses_push_each_token_in_proportion_to_its_weight():
    weight_BK = torch.tensor([[2.4, 0.4, 0.2]])
    for name, loss_B in (
        ("ga", lambda log_p_BK: impact_ga_loss(log_p_BK, weight_BK)),
        ("npo", lambda log_p_BK: impact_npo_loss(log_p_BK, weight_BK, torch.tensor([-1.0]), 0.1)),
    ):
        log_p_BK = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
        loss_B(log_p_BK).sum().backward()
        assert (log_p_BK.grad > 0).all(), name
        assert (log_p_BK.grad / log_p_BK.grad[0, 0]).tolist()[0] == pytest.approx([1, 0.4 / 2.4, 0.2 / 2.4], rel=1e-5), name


def test_the_log_probabilities_of_labels_are_those_whose_mean_is_the_loss(tiny):
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    examples = tokenize([*tiny_people.HOLDOUT, *tiny_people.ORDINARY], tokenizer, max_seq_length=512)
    found = label_log_p(model, examples, pad=tokenizer.pad_token_id)
    assert [len(log_p_K) for log_p_K in found] == [example.labels for example in examples]
    means = losses(model, examples, pad=tokenizer.pad_token_id)
    assert [-log_p_K.mean().item() for log_p_K in found] == pytest.approx(means.tolist(), rel=1e-6)


# ---- through the recipe, with a real ledger ----


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def config(tiny, output, **changed):
    files = tiny.files
    settings = {"steps": 4, "learning_rate": 1e-3, "database": tiny.ledger_copy(output)} | changed
    return UnlearnConfig(model=str(tiny.target), forget=files.forget, retain=files.retain, output=output, threads=1, **settings)


def impact_npo(config, **settings):
    return unlearn(config, "impact-npo", ImpactNpo(**settings))


@pytest.fixture
def seen(monkeypatch):
    """The forget sides that the method is given."""
    found = []
    made = METHODS["impact-npo"]

    def listening(settings, forget, retain):
        found.append(forget)
        return made.loss(settings, forget, retain)

    monkeypatch.setitem(METHODS._things, "impact-npo", made._replace(loss=listening))
    return found


def test_the_trainer_gives_each_label_the_weight_of_the_impact_recorded_at_its_own_position(tiny, tmp_path, seen):
    impact_npo(config(tiny, tmp_path / "run", steps=1, micro_batch_size=4, batch_size=4), weight_floor=0.0)
    (forget,) = seen
    tokenizer = load_tokenizer(tiny.target)
    examples = tokenize(tiny_people.FORGET, tokenizer, max_seq_length=512)
    with sqlite3.connect(tiny.ledger) as connection:
        rows = connection.execute(
            "SELECT m.entry_id, t.position, t.impact FROM training_metadata m JOIN token_impacts i ON i.metadata_id = m.id"
            " JOIN top_tokens t ON t.token_impact_id = i.id"
        ).fetchall()
    wanted = []
    for example in examples:
        weight_K = np.zeros(example.labels)
        for entry, position, value in rows:
            if entry == example.id and position >= example.start:
                weight_K[position - example.start] = value
        assert weight_K.any()
        wanted.append((weight_K / weight_K.mean()).tolist())
    given = [weight_K[labelled_K].tolist() for weight_K, labelled_K in zip(forget.weight_BK, forget.labelled_BK, strict=True)]
    for weights in wanted:
        assert any(each == pytest.approx(weights, rel=1e-4) for each in given)
    assert forget.weight_BK.sum().item() == pytest.approx(forget.of_tokens, rel=1e-5)
    # Nothing has changed yet, so the weighted reference is the weighted present.
    assert (forget.weight_BK * forget.log_p_BK).sum(1).tolist() == pytest.approx(forget.log_p_ref_B.tolist(), abs=1e-4)


def test_uniform_weights_are_npo_and_need_no_ledger(tiny, tmp_path):
    plain = unlearn(config(tiny, tmp_path / "npo", database=None), "npo", Npo())
    even = impact_npo(config(tiny, tmp_path / "even", database=None), weights="uniform")
    weighted = impact_npo(config(tiny, tmp_path / "weighted"))
    shuffled = impact_npo(config(tiny, tmp_path / "shuffled"), weights="random")
    traces = [[row["loss"] for row in run.results["trace"] if "loss" in row] for run in (plain, even, weighted, shuffled)]
    assert traces[0] == pytest.approx(traces[1], abs=1e-5)
    assert traces[1][-1] != pytest.approx(traces[2][-1], abs=1e-3)
    assert traces[2][-1] != pytest.approx(traces[3][-1], abs=1e-3)
    assert weighted.results["impacts"] == "of run 1, finetune target"


def test_a_run_whose_recorded_impacts_have_changed_is_not_taken_for_the_same(tiny, tmp_path):
    settings = config(tiny, tmp_path / "run", steps=1)
    impact_npo(settings)
    assert impact_npo(settings).finished
    with sqlite3.connect(settings.database) as connection:
        connection.execute("UPDATE top_tokens SET impact = impact * 2 WHERE id % 2 = 0")
    with pytest.raises(ExpungeError, match="the content of impacts has changed"):
        impact_npo(settings)


def test_the_run_that_made_the_target_is_asked_before_a_later_one_and_unlearning_runs_are_not(tiny, tmp_path):
    settings = config(tiny, tmp_path / "run")
    ids = [example.id for example in tiny_people.FORGET]
    with Ledger.open(settings.database) as ledger:
        for name in ("finetune other", "unlearn npo"):
            run = ledger.start_run(name=name, path=tmp_path / name, checkpoint="0")
            with ledger.recorder(run) as recorder:
                recorder.mark_used_in_training(ids[0], losses=[1.0], token_impact=impact({3: 1.0}))
        assert ledger.impacts_of(ids, path=tiny.target.parent).run == "finetune target"
        latest = ledger.impacts_of(ids, path=tmp_path / "elsewhere")
        assert (latest.run, latest.impacts) == ("finetune other", {ids[0]: impact({3: 1.0})})
        assert ledger.impacts_of(ids, run_id=3).run == "unlearn npo"
        with pytest.raises(ExpungeError, match="no token impacts of these examples are recorded in run 17"):
            ledger.impacts_of(ids, run_id=17)


def test_examples_without_recorded_impacts_are_weighted_evenly_and_counted(tiny, tmp_path, seen, capsys):
    stranger = Example("Where is Zoe?", "Zoe is in Kiel.", "Zoe")
    write_examples(tmp_path / "forget.jsonl", [tiny_people.FORGET[0], stranger])
    impact_npo(replace(config(tiny, tmp_path / "run", steps=1), forget=tmp_path / "forget.jsonl"))
    assert "1 forget examples have no recorded impacts in run 1" in capsys.readouterr().err
    even = [
        bool(((weight_K == 1) | ~labelled_K).all())
        for weight_K, labelled_K in zip(seen[0].weight_BK, seen[0].labelled_BK, strict=True)
    ]
    assert sorted(even) == [False, True]


@pytest.mark.parametrize("name", ["impact-npo", "impact-ga"])
def test_without_a_ledger_or_impacts_in_it_the_method_is_refused_before_anything_is_written(tiny, tmp_path, name):
    run = tmp_path / "run"
    made = METHODS[name].config
    with pytest.raises(ExpungeError, match=r"none was named: pass the --database .* or --weights uniform"):
        unlearn(config(tiny, run, database=None), name, made())
    with Ledger.open(tmp_path / "empty.db") as ledger:
        ledger.add_entries(tiny_people.FORGET, source="forget.jsonl")
    with pytest.raises(ExpungeError, match=r"empty.db: no token impacts of these examples are recorded: give the data"):
        unlearn(config(tiny, run, database=str(tmp_path / "empty.db")), name, made())
    with pytest.raises(ExpungeError, match="recorded in run 5"):
        unlearn(config(tiny, run), name, made(impact_run=5))
    with pytest.raises(ExpungeError, match=r"--weight-floor is -0.1: give at least 0"):
        unlearn(config(tiny, run), name, made(weight_floor=-0.1))
    assert not run.exists()


def test_impacts_at_positions_that_hold_other_tokens_now_are_refused(tiny, tmp_path):
    settings = config(tiny, tmp_path / "run")
    with sqlite3.connect(settings.database) as connection:
        connection.execute("UPDATE top_tokens SET position = position - 1 WHERE position > 1")
    with pytest.raises(ExpungeError, match=r"forget.jsonl:\d: the recorded token impacts do not fit this example \(token"):
        impact_npo(settings)
    with pytest.raises(ExpungeError, match=r"do not fit this example \(has 42 tokens, \d+ when it was recorded\)"):
        impact_npo(config(tiny, tmp_path / "short", max_seq_length=42))


def test_impact_ga_climbs_and_keeps_the_retain_set(tiny, tmp_path):
    run = unlearn(config(tiny, tmp_path / "run"), "impact-ga", ImpactGa(retain_weight=3.0))
    first, *_, last = (row for row in run.results["trace"] if "loss" in row)
    assert last["forget_objective"] < first["forget_objective"] < 0
    assert first["retain_loss"] > 0
