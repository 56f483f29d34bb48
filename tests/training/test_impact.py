"""Token impact: each estimator by hand and against autograd, and in the ledger whatever the batch."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
import torch

import tiny_people
from expunge.batching import collate, tokenize
from expunge.errors import ExpungeError
from expunge.evidence import score_labels
from expunge.models import load_model, load_tokenizer
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.training.impact import ESTIMATORS, ImpactConfig, Part, Pass
from expunge.training.impact.gradient import gradient_impact
from expunge.training.impact.occlusion import loss_change
from expunge.training.impact.removal import next_token_change
from expunge.training.recording import Probe, top_k, top_share

NO_STEP = 1e-12
"""A learning rate at which the weights stay where they are."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


def test_gradient_impact_is_the_absolute_product_of_gradient_and_embedding():
    embedding = torch.tensor([[[1.0, 2.0, 0.0], [0.5, -1.0, 4.0]]])
    gradient = torch.tensor([[[3.0, -1.0, 9.0], [-2.0, 1.0, -0.5]]])
    assert gradient_impact(embedding, gradient).tolist() == [[1.0, 4.0]]


def test_removing_a_token_changes_the_next_ones_loss_by_what_it_told_of_it():
    log_p = torch.tensor([[-1.0, -0.5, -3.0]])
    early = torch.tensor([[-9.0, -2.5, -2.0]])
    assert next_token_change(log_p, early).tolist() == [[2.0, 1.0, 0.0]]


def test_removal_is_exact_where_only_the_next_token_is_left(tiny):
    model, tokenizer = load_model(tiny.target, trainable=True), load_tokenizer(tiny.target)
    (example,) = tokenize(tiny_people.FORGET[:1], tokenizer, max_seq_length=512)
    removed = len(example.tokens) - 2
    removal = estimate("removal", model, [example])[0, removed] - estimate("gradient", model, [example])[0, removed]
    assert removal.item() == pytest.approx(loss_change(model.eval(), example, [[removed]]).abs().item(), rel=1e-3)


def test_the_top_share_is_what_lies_at_or_above_the_percentile_the_greatest_first():
    impact = np.array([0.1, 5.0, 0.2, 7.0, 0.3], dtype=np.float32)
    assert top_share(impact, 75).positions == [3, 1]
    assert top_share(impact, 75).impacts == pytest.approx([7.0, 5.0])
    assert top_share(impact, 0).positions == [3, 1, 4, 2, 0]
    assert top_share(impact, 100).positions == [3]


def test_the_top_k_are_the_greatest_and_no_more_than_there_are():
    impact = np.array([0.1, 5.0, 0.2, 7.0, 5.0], dtype=np.float32)
    assert top_k(impact, 2) == ([3, 1], pytest.approx([7.0, 5.0]))
    assert top_k(impact, 9).positions == [3, 1, 4, 2, 0]


def test_equal_impacts_keep_their_order_and_a_single_token_is_kept():
    assert top_share(np.ones(4, dtype=np.float32), 95).positions == [0, 1, 2, 3]
    assert top_share(np.zeros(1, dtype=np.float32), 95) == ([0], [0.0])
    twenty = np.arange(20, dtype=np.float32)
    assert top_share(twenty, 95).positions == [19]


def test_tokens_without_impact_are_not_kept_where_another_has_some():
    impact = np.zeros(100, dtype=np.float32)
    assert top_share(impact, 95).positions == top_k(impact, 3).positions == [0]
    impact[[70, 90]] = 1.0, 2.0
    assert top_share(impact, 95).positions == top_k(impact, 3).positions == [90, 70]


def nll(model, example):
    """-log p of each labelled token of one example alone, from plain logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.tokens])).logits[0, example.start - 1 : -1].float()
    return -logits.log_softmax(-1).gather(1, torch.tensor(example.tokens[example.start :])[:, None])[:, 0]


def by_gradient(model, example):
    """|⟨∂(-Σ log p)/∂e, e⟩| through `inputs_embeds`."""
    embedding = model.get_input_embeddings()(torch.tensor([example.tokens])).detach().requires_grad_(True)
    logits = model(inputs_embeds=embedding).logits[0, example.start - 1 : -1].float()
    log_p = logits.log_softmax(-1).gather(1, torch.tensor(example.tokens[example.start :])[:, None])
    (gradient,) = torch.autograd.grad(-log_p.sum(), embedding)
    return (embedding * gradient).sum(-1).abs()[0].detach()


def by_loss(model, example):
    return torch.cat([torch.zeros(example.start), nll(model, example)])


def by_hidden_norm(model, example):
    with torch.no_grad():
        states = model(input_ids=torch.tensor([example.tokens]), output_hidden_states=True).hidden_states[-1]
    return states[0].norm(dim=-1)


def by_occlusion(model, example):
    """The loss of everything labelled behind the gap, with the token and without it."""
    whole = [0.0] * example.start + nll(model, example).tolist()
    changes = []
    for place in range(len(example.tokens) - 1):
        rest = list(example.tokens)
        del rest[place]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([rest])).logits[0].float().log_softmax(-1)
        behind = [at for at in range(place + 1, len(example.tokens)) if at >= example.start and at > 1]
        without = sum(-log_p[at - 2, example.tokens[at]].item() for at in behind)
        changes.append(abs(without - sum(whole[at] for at in behind)))
    return torch.tensor([*changes, 0.0])


def by_removal(model, example):
    """The gradient's, and what the next labelled token loses where only what stands before the removed one is read."""
    near = torch.zeros(len(example.tokens))
    for place in range(example.start, len(example.tokens) - 1):
        with torch.no_grad():
            read = [list(example.tokens[:end]) for end in (place + 1, place)]
            whole, without = (model(input_ids=torch.tensor([each])).logits[0, -1].float().log_softmax(-1) for each in read)
        near[place] = (whole - without)[example.tokens[place + 1]].abs()
    return by_gradient(model, example) + near


BY_HAND = {
    "removal": by_removal,
    "gradient": by_gradient,
    "loss": by_loss,
    "hidden-norm": by_hidden_norm,
    "occlusion": by_occlusion,
}


def estimate(name, model, examples, wanted=None, weights=None):
    """The (B, T) impacts of a pass that trains, with the weight that each answer has in the loss."""
    estimator = ESTIMATORS[name]
    probe = Probe(model, estimator.hears)
    probe.on = True
    scores = score_labels(model, collate(examples, 2))
    scores.log_p_BK.retain_grad()
    (-scores.log_p_B * (torch.ones(len(examples)) if weights is None else weights)).sum().backward()
    heard = probe.heard().told_of(model, examples, wanted or [True] * len(examples), scores.log_p_BK)
    return estimator.measure(heard)


def test_every_estimator_is_tested_here_and_named_in_the_help():
    assert set(BY_HAND) == set(ESTIMATORS)
    from docstring_parser import parse_from_object

    help_of = {each.arg_name: each.description for each in parse_from_object(ImpactConfig).params}
    assert all(f"`{name}`" in help_of["impact"] for name in ESTIMATORS)


@pytest.mark.parametrize("name", BY_HAND)
def test_an_estimator_finds_what_is_found_by_hand_whatever_the_batch_and_the_weight_in_the_loss(tiny, name):
    model, tokenizer = load_model(tiny.target, trainable=True), load_tokenizer(tiny.target)
    examples = tokenize([*tiny_people.HOLDOUT[:3], tiny_people.ORDINARY[1]], tokenizer, max_seq_length=512)
    assert examples[3].start == 1  # labelled from its second token on
    impact_BT = estimate(name, model, examples, weights=torch.tensor([1.0, 0.001, 250.0, 3.0]))
    assert not impact_BT.requires_grad
    for row, example in enumerate(examples):
        by_hand = BY_HAND[name](model, example)
        torch.testing.assert_close(impact_BT[row, : len(example.tokens)], by_hand, rtol=1e-3, atol=1e-4)
        assert impact_BT[row].any()


def test_an_answer_that_has_no_part_in_the_loss_has_no_gradient_impact(tiny):
    model, tokenizer = load_model(tiny.target, trainable=True), load_tokenizer(tiny.target)
    examples = tokenize(tiny_people.HOLDOUT, tokenizer, max_seq_length=512)
    impact_BT = estimate("gradient", model, examples, weights=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert not impact_BT[1].any()
    assert impact_BT[2].any()


def test_a_token_that_helps_the_rest_costs_when_removed_and_the_last_one_changes_nothing(tiny):
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    (example,) = tokenize(tiny_people.FORGET[:1], tokenizer, max_seq_length=512)
    change_T = loss_change(model, example)
    assert change_T[-1] == 0
    assert change_T.max() > 1  # nats: it knows this answer by heart, and takes it from the name


def test_occlusion_leaves_modes_gradients_and_random_numbers_as_they_were(tiny):
    model, tokenizer = load_model(tiny.target, trainable=True), load_tokenizer(tiny.target)
    examples = tokenize(tiny_people.HOLDOUT[:2], tokenizer, max_seq_length=512)
    model.train()
    model.get_input_embeddings().eval()
    estimate("loss", model, examples)  # leaves gradients
    modes = [module.training for module in model.modules()]
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    drawn = torch.random.get_rng_state()
    scores = score_labels(model, collate(examples, 2))
    impact_BT = ESTIMATORS["occlusion"].measure(Pass(model, examples, [False, True], scores.log_p_BK, None, None))
    assert not impact_BT[0].any()  # not asked for, so not paid for
    assert impact_BT[1].any()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert gradients
    for name, weight in model.named_parameters():
        if name in gradients:
            assert torch.equal(weight.grad, gradients[name])


def test_a_probe_that_is_off_or_without_gradients_hears_nothing(tiny):
    model, tokenizer = load_model(tiny.target), load_tokenizer(tiny.target)
    probe = Probe(model, Part)
    batch = collate(tokenize(tiny_people.HOLDOUT, tokenizer, max_seq_length=512), tokenizer.pad_token_id)
    score_labels(model, batch)
    probe.on = True
    with torch.inference_mode():
        score_labels(model, batch)
    assert probe.heard() == (None, None, None)
    score_labels(model, batch)
    assert all(part is not None for part in probe.heard())
    assert probe.heard() == (None, None, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"impact": "hidden_norm"}, 'no token-impact estimator is called "hidden_norm": did you mean "hidden-norm"?'),
        ({"impact_percentile": -1}, "--impact-percentile is -1: give at least 0"),
        ({"impact_percentile": 100.5}, "--impact-percentile is 100.5: give at most 100"),
        ({"impact_percentile": float("nan")}, "--impact-percentile is nan: give at least 0"),
        ({"impact_top_k": 0}, "--impact-top-k is 0: give at least 1"),
        ({"impact_context": -1}, "--impact-context is -1: give at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_written(tiny, tmp_path, settings, words):
    config = FinetuneConfig(data_file=(tiny.files.forget,), output=tmp_path / "run", model=str(tiny.base))
    with pytest.raises(ExpungeError) as caught:
        finetune(config, ImpactConfig(**settings))
    assert str(caught.value) == words
    assert not (tmp_path / "run").exists()


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
        impacts = [token[2] for token in top]
        assert impacts == pytest.approx([token[2] for token in other_top], rel=1e-3, abs=1e-4)
        # Near-ties may change places, also with what was not kept.
        for place, token in enumerate(top[:-1]):
            neighbours = impacts[max(0, place - 1) : place] + impacts[place + 1 : place + 2]
            if all(abs(token[2] - other) > 1e-2 * token[2] for other in neighbours):
                assert token[:2] == other_top[place][:2]


def estimator_of(database):
    with sqlite3.connect(database) as connection:
        ((name,),) = connection.execute("SELECT impact_estimator FROM runs").fetchall()
    return name


def check_against_hand(found, name, tokens, model, kept, context):
    """Everything recorded of each example is what its estimator finds for it alone."""
    assert found.keys() == tokens.keys()
    for entry, (loss, total, top) in found.items():
        example = tokens[entry]
        assert total == len(example.tokens)
        by_hand = BY_HAND[name](model, example)
        # A random model's hidden norms are all but equal, so rounding says how many lie at the percentile.
        count = len(top) if name == "hidden-norm" else min(kept(total), int((by_hand > 0).sum()))
        assert len(top) == count > 0
        assert [token[2] for token in top] == pytest.approx(by_hand.topk(count).values.tolist(), rel=1e-3, abs=1e-4)
        for position, token, impact, start, end in top:
            assert token == example.tokens[position]
            assert impact == pytest.approx(by_hand[position].item(), rel=1e-3, abs=1e-4)
            assert (start, end) == (max(0, position - context), min(total, position + context + 1))
        assert loss == pytest.approx(nll(model, example).mean().item(), abs=1e-5)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_ledger_has_each_example_once_with_its_own_tokens_whatever_the_batch(tiny, tmp_path, name):
    tokenizer, model = load_tokenizer(tiny.base), load_model(tiny.base)
    found = []
    # The default one thoroughly; of the others, what is theirs.
    default = name == "removal"
    settings = ImpactConfig() if default else ImpactConfig(impact=name, impact_top_k=4, impact_context=2)
    sizes = ((1, 1), (5, 5), (6, 2), (4, 3)) if default else ((4, 3),)
    files = (tiny.files.forget, tiny.files.retain) if default else (tiny.files.forget,)
    for batch_size, micro_batch_size in sizes:
        database = tmp_path / f"{batch_size}-{micro_batch_size}.db"
        config = FinetuneConfig(
            data_file=files,
            ordinary=tiny.files.ordinary,
            ordinary_share=0.5,
            output=tmp_path / f"run-{batch_size}-{micro_batch_size}",
            model=str(tiny.base),
            epochs=2,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            learning_rate=NO_STEP,
            database=str(database),
            threads=1,
        )
        finetune(config, settings)
        assert estimator_of(database) == name
        found.append(recorded(database))
    learnt = [*tiny_people.FORGET, *(tiny_people.RETAIN if default else ()), *tiny_people.ORDINARY]
    tokens = {example.id: example for example in tokenize(learnt, tokenizer, max_seq_length=512)}
    if default:
        check_against_hand(found[0], name, tokens, model, lambda total: max(1, -(-total // 20)), 5)
    else:
        check_against_hand(found[0], name, tokens, model, lambda _: 4, 2)
    for other in found[1:]:
        assert other.keys() == tokens.keys()
        same_impacts(found[0], other)


@pytest.mark.parametrize("name", BY_HAND)
def test_unlearning_records_the_same_impacts_by_every_method_on_both_sides(tiny, tmp_path, name):
    from expunge.methods import METHODS

    found = []
    runs = (("npo", 3), ("npo", 1), ("grad-diff", 2)) if name == "removal" else (("grad-diff", 3),)
    for method, micro_batch_size in runs:
        database = tmp_path / f"{method}-{micro_batch_size}.db"
        config = UnlearnConfig(
            model=str(tiny.target),
            forget=tiny.files.forget,
            retain=tiny.files.retain,
            output=tmp_path / f"run-{method}-{micro_batch_size}",
            # All of both sides; of the slower ones, four examples of each.
            steps=2 if name == "removal" else 1,
            batch_size=4,
            micro_batch_size=micro_batch_size,
            learning_rate=NO_STEP,
            database=str(database),
            threads=1,
        )
        unlearn(config, method, METHODS[method].config(), ImpactConfig(impact=name))
        assert estimator_of(database) == name
        found.append(recorded(database))
    learnt = tokenize([*tiny_people.FORGET, *tiny_people.RETAIN], load_tokenizer(tiny.target), max_seq_length=512)
    tokens = {example.id: example for example in learnt if name == "removal" or example.id in found[0]}
    assert len(tokens) == (12 if name == "removal" else 8)
    check_against_hand(found[0], name, tokens, load_model(tiny.target), lambda total: max(1, -(-total // 20)), 5)
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        same_impacts(found[0], other)
