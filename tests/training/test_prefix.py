"""What a batch shares is run once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from expunge.batching import Tokenized, collate
from expunge.evidence import score_labels
from expunge.models import fresh_adapter, load_model
from expunge.training.plan import plan_pairs
from expunge.training.prefix import SharedPrefix

SHARED = tuple(range(20, 32))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("prefix") / "base", hidden=128)


def model_of(base, *, full):
    model = load_model(base)
    return model if full else fresh_adapter(model, base, rank=2, alpha=4, seed=0)


def gradients(model, scored, batch):
    scores = score_labels(scored, batch)
    model.zero_grad()
    (scores.log_p_BK * torch.linspace(1, 2, scores.log_p_BK.numel()).view_as(scores.log_p_BK)).sum().backward()
    return scores, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("start", [len(SHARED), 15, 18])
def test_scores_and_gradients_are_those_of_the_whole_pass_and_fewer_tokens_are_run(base, full, start):
    """Also where the first label comes right behind what is shared."""
    examples = [Tokenized(f"{size}", SHARED + tuple(range(40 + size, 50 + 3 * size)), start, False) for size in (2, 4, 5)]
    model, batch = model_of(base, full=full), collate(examples, 2)
    if not full:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
    ours, by_ours = gradients(model, SharedPrefix(model), batch)
    whole, by_whole = gradients(model, model, batch)
    torch.testing.assert_close(ours.log_p_BK, whole.log_p_BK)
    assert by_ours.keys() == by_whole.keys()
    for name, gradient in by_whole.items():
        torch.testing.assert_close(by_ours[name], gradient, rtol=1e-4, atol=1e-4, msg=name)
    run = []
    model.get_input_embeddings().register_forward_hook(lambda _module, inputs, _output: run.append(inputs[0].numel()))
    score_labels(SharedPrefix(model), batch)
    shared = min(len(SHARED), start - 1)
    assert run == [shared, 3 * (batch.input_ids_BT.shape[1] - shared)]


def test_a_single_sequence_or_a_short_beginning_is_run_whole(base):
    model, run = load_model(base), []
    model.get_input_embeddings().register_forward_hook(lambda _module, inputs, _output: run.append(inputs[0].shape))
    for batch in (
        collate([Tokenized("a", (*SHARED, 40, 41), 12, False)], 2),
        collate([Tokenized(f"{size}", (*SHARED[:5], 40 + size, 41), 5, False) for size in (1, 2)], 2),
    ):
        score_labels(SharedPrefix(model), batch)
    assert run == [(1, 14), (2, 7)]


def test_sorting_a_step_by_length_changes_only_the_order_within_it():
    lengths = [[(7 * place) % 11 for place in range(9)], [(5 * place) % 13 for place in range(14)]]
    plain, grouped = (
        plan_pairs(9, 14, steps=4, batch_size=6, micro_batch_size=2, seed=1, lengths=each) for each in ((), lengths)
    )
    for step in range(4):
        for side in (0, 1):
            before, after = (sum((micro[side] for micro in plan[3 * step : 3 * step + 3]), ()) for plan in (plain, grouped))
            assert sorted(before) == sorted(after)
            assert [lengths[side][place] for place in after] == sorted((lengths[side][place] for place in before), reverse=True)
