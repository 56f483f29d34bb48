"""Token impact: by hand, against autograd, and in the ledger whatever the batch."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
import torch

import tiny_people
from expunge.batching import collate, tokenize
from expunge.evidence import score_labels
from expunge.models import load_model, load_tokenizer
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.training.impact import GradientProbe, gradient_impact, top_share

NO_STEP = 1e-12
"""A learning rate at which the weights stay where they are."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def test_impact_is_the_absolute_product_of_gradient_and_embedding():
    embedding = torch.tensor([[[1.0, 2.0, 0.0], [0.5, -1.0, 4.0]]])
    gradient = torch.tensor([[[3.0, -1.0, 9.0], [-2.0, 1.0, -0.5]]])
    assert gradient_impact(embedding, gradient).tolist() == [[1.0, 4.0]]


def test_the_top_share_is_what_lies_at_or_above_the_percentile_the_greatest_first():
    impact = np.array([0.1, 5.0, 0.2, 7.0, 0.3], dtype=np.float32)
    assert top_share(impact, 75).positions == [3, 1]
    assert top_share(impact, 75).impacts == pytest.approx([7.0, 5.0])
    assert top_share(impact, 0).positions == [3, 1, 4, 2, 0]
    assert top_share(impact, 100).positions == [3]


def test_equal_impacts_keep_their_order_and_a_single_token_is_kept():
    assert top_share(np.ones(4, dtype=np.float32), 95).positions == [0, 1, 2, 3]
    assert top_share(np.zeros(1, dtype=np.float32), 95) == ([0], [0.0])
    twenty = np.arange(20, dtype=np.float32)
    assert top_share(twenty, 95).positions == [19]


def impact_by_hand(model, example):
    """|⟨∂(-Σ log p)/∂e, e⟩| of one example alone, through `inputs_embeds`."""
    embedding = model.get_input_embeddings()(torch.tensor([example.tokens])).detach().requires_grad_(True)
    logits = model(inputs_embeds=embedding).logits[0, example.start - 1 : -1].float()
    log_p = logits.log_softmax(-1).gather(1, torch.tensor(example.tokens[example.start :])[:, None])
    (gradient,) = torch.autograd.grad(-log_p.sum(), embedding)
    return (embedding * gradient).sum(-1).abs()[0].detach()


def test_the_probe_finds_what_autograd_finds_whatever_the_batch_and_the_weight_in_the_loss(tiny):
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    examples = tokenize(tiny_people.HOLDOUT, tokenizer, max_seq_length=512)
    probe = GradientProbe(model)
    probe.on = True
    scores = score_labels(model, collate(examples, tokenizer.pad_token_id))
    scores.log_p_BK.retain_grad()
    weights = torch.tensor([1.0, 0.001, 250.0, 0.0])
    (-scores.log_p_B * weights).sum().backward()
    (impact_BT,) = probe.impacts([scores.log_p_BK])
    for row, example in enumerate(examples[:3]):
        torch.testing.assert_close(impact_BT[row, : len(example.tokens)], impact_by_hand(model, example), rtol=1e-3, atol=1e-5)
        assert not impact_BT[row, len(example.tokens) :].any()
    assert not impact_BT[3].any()  # it had no part in the loss


def test_a_probe_that_is_off_hears_nothing(tiny):
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    probe = GradientProbe(model)
    batch = collate(tokenize(tiny_people.HOLDOUT, tokenizer, max_seq_length=512), tokenizer.pad_token_id)
    score_labels(model, batch)
    probe.on = True
    with torch.inference_mode():
        score_labels(model, batch)
    assert probe.impacts([]) == []


def recorded(database):
    """What the ledger says of each entry: {id: (loss, tokens in all, [(position, token, impact, start, end)])}."""
    with sqlite3.connect(database) as connection:
        uses = connection.execute(
            "SELECT m.entry_id, m.average_loss, i.total_tokens, i.id FROM training_metadata m"
            " JOIN token_impacts i ON i.metadata_id = m.id"
        ).fetchall()
        top = (
            "SELECT position, token_id, impact, context_start, context_end FROM top_tokens"
            " WHERE token_impact_id = ? ORDER BY id"
        )
        found = {entry: (loss, total, connection.execute(top, [id]).fetchall()) for entry, loss, total, id in uses}
    assert len(found) == len(uses), "an entry was recorded twice in a run"
    return found


def same_impacts(first, second):
    for entry in first.keys() & second.keys():
        (loss, total, top), (other_loss, other_total, other_top) = first[entry], second[entry]
        assert (loss, total) == (pytest.approx(other_loss, abs=1e-5), other_total)
        # The last place may be a near-tie, so that one is not compared by position.
        assert [token[2] for token in top] == pytest.approx([token[2] for token in other_top], rel=1e-3, abs=1e-5)
        assert [token[:2] for token in top[:-1]] == [token[:2] for token in other_top[:-1]]


def test_the_ledger_has_each_example_once_with_its_own_tokens_whatever_the_batch(tiny, tmp_path):
    tokenizer = load_tokenizer(tiny.base)
    model = load_model(tiny.base)
    found = []
    for batch_size, micro_batch_size in ((1, 1), (5, 5), (6, 2), (4, 3)):
        database = tmp_path / f"{batch_size}-{micro_batch_size}.db"
        finetune(
            FinetuneConfig(
                data_file=(tiny.files.forget, tiny.files.retain),
                ordinary=tiny.files.ordinary,
                ordinary_share=0.2,
                output=tmp_path / f"run-{batch_size}-{micro_batch_size}",
                model=str(tiny.base),
                epochs=2,
                batch_size=batch_size,
                micro_batch_size=micro_batch_size,
                learning_rate=NO_STEP,
                database=str(database),
                threads=1,
            )
        )
        found.append(recorded(database))
    learnt = [*tiny_people.FORGET, *tiny_people.RETAIN, *tiny_people.ORDINARY]
    tokens = {example.id: example for example in tokenize(learnt, tokenizer, max_seq_length=512)}
    assert found[0].keys() == tokens.keys()
    for entry, (loss, total, top) in found[0].items():
        example = tokens[entry]
        assert total == len(example.tokens)
        by_hand = impact_by_hand(model, example)
        assert len(top) == max(1, -(-total // 20))
        assert [token[2] for token in top] == pytest.approx(by_hand.topk(len(top)).values.tolist(), rel=1e-3)
        for position, token, impact, start, end in top:
            assert token == example.tokens[position]
            assert impact == pytest.approx(by_hand[position].item(), rel=1e-3)
            assert (start, end) == (max(0, position - 5), min(total, position + 6))
        with torch.inference_mode():
            scores = score_labels(model, collate([example], tokenizer.pad_token_id))
        assert loss == pytest.approx(-scores.log_p_B.item() / example.labels, abs=1e-5)
    for other in found[1:]:
        assert other.keys() == tokens.keys()
        same_impacts(found[0], other)


def test_unlearning_records_the_same_impacts_by_every_method_on_both_sides(tiny, tmp_path):
    from expunge.methods import METHODS

    found = []
    for method, micro_batch_size in (("npo", 3), ("npo", 1), ("grad-diff", 2)):
        database = tmp_path / f"{method}-{micro_batch_size}.db"
        unlearn(
            UnlearnConfig(
                model=str(tiny.target),
                forget=tiny.files.forget,
                retain=tiny.files.retain,
                output=tmp_path / f"run-{method}-{micro_batch_size}",
                steps=3,
                batch_size=3,
                micro_batch_size=micro_batch_size,
                learning_rate=NO_STEP,
                database=str(database),
                threads=1,
            ),
            method,
            METHODS[method].config(),
        )
        found.append(recorded(database))
    assert {example.id for example in tiny_people.FORGET} <= found[0].keys()
    assert len(found[0]) == 4 + 8
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        same_impacts(found[0], other)
