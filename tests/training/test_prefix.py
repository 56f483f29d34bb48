"""What sequences share is run once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from expunge.batching import Tokenized, collate
from expunge.evidence import score_labels
from expunge.models import fresh_adapter, load_model
from expunge.training.hidden import label_hidden
from expunge.training.plan import plan_pairs
from expunge.training.prefix import can_share, forest, grow, hidden_together, score_together

SHARED = tuple(range(20, 32))
PAD = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("prefix") / "base", hidden=128)


@pytest.fixture(params=["whole", "adapter", "eager"])
def model(base, request):
    model = load_model(base)
    if request.param == "eager":
        model.set_attn_implementation("eager")
    if request.param == "adapter":
        model = fresh_adapter(model, base, rank=2, alpha=4, seed=0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
    return model


def batches():
    """Questions of several lengths, and other answers to them; the last answer begins as the first one does."""
    questions = [SHARED + tuple(range(40, 40 + size)) for size in (2, 7, 4)]
    answers = [(60, 61, 62, 2), (63, 2), (64, 65, 66, 67, 68, 2)]
    others = [(60, 61, 70, 71, 2), (72, 2), (73, 74, 2)]
    return [
        collate([Tokenized(f"{answer}", question + answer, len(question), False) for question, answer in pairs], PAD)
        for pairs in (zip(questions, answers, strict=True), zip(questions, others, strict=True))
    ]


def test_a_tree_holds_every_beginning_once():
    tree = grow([(1, 2, 3), (1, 2, 4, 5), (2, 2)])
    assert tree.tokens == [1, 2, 3, 4, 5, 2, 2]
    assert tree.depths == [0, 1, 2, 2, 3, 0, 1]
    assert tree.paths == [[0, 1, 2], [0, 1, 3, 4], [5, 6]]
    seen = [[int(place) for place in row.nonzero()[0]] for row in tree.sees_TT]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [5], [5, 6]]


def test_trees_hold_every_sequence_once_and_stay_small():
    sequences = [(*SHARED, *range(100 * number, 100 * number + 90)) for number in (7, 1, 5, 3, 2, 6, 4)]
    sequences.append(tuple(range(1000, 1600)))
    trees = forest(sequences)
    assert sorted(member for members, _ in trees for member in members) == list(range(8))
    assert [len(tree.tokens) for _, tree in trees] == [12 + 5 * 90, 12 + 2 * 90, 600]
    for members, tree in trees:
        for member, path in zip(members, tree.paths, strict=True):
            assert tuple(tree.tokens[place] for place in path) == sequences[member]


def test_scores_and_gradients_are_those_of_whole_sequences_and_fewer_tokens_are_run(model):
    sides, run = batches(), []
    model.get_input_embeddings().register_forward_hook(lambda _module, inputs, _output: run.append(inputs[0].numel()))
    found = []
    for each in (
        score_together(model, sides, logits=[True, False]),
        [score_labels(model, side, logits=True) for side in sides],
    ):
        model.zero_grad()
        weights = [torch.linspace(1, 2, scores.log_p_BK.numel()).view_as(scores.log_p_BK) for scores in each]
        sum((scores.log_p_BK * weight).sum() for scores, weight in zip(each, weights, strict=True)).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((each, gradients))
    (together, by_together), (whole, by_whole) = found
    for ours, theirs in zip(together, whole, strict=True):
        torch.testing.assert_close(ours.log_p_BK, theirs.log_p_BK, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours.labelled_BK, theirs.labelled_BK)
        assert torch.equal(ours.labels_BK, theirs.labels_BK)
    labelled_BK = whole[0].labelled_BK
    torch.testing.assert_close(together[0].logits_BKV[labelled_BK], whole[0].logits_BKV[labelled_BK], rtol=1e-4, atol=1e-4)
    assert not together[0].logits_BKV[~labelled_BK].any()
    assert together[1].logits_BKV is None
    assert by_together.keys() == by_whole.keys()
    for name, gradient in by_whole.items():
        torch.testing.assert_close(by_together[name], gradient, rtol=1e-3, atol=1e-3, msg=name)
    # 12 shared and 2, 7 and 4 of the questions, of which one is the beginning of the others; answers less a shared beginning.
    once, *twice = run
    assert once == 12 + 7 + (4 + 2 + 6) + (5 - 2 + 2 + 3)
    assert twice == [side.input_ids_BT.numel() for side in sides]


def test_hidden_states_are_those_of_whole_sequences(model):
    sides = batches()
    for ours, side in zip(hidden_together(model, sides, 0), sides, strict=True):
        theirs = label_hidden(model, side, 0)
        labelled_BK = theirs.labelled_BK
        assert torch.equal(ours.labelled_BK, labelled_BK)
        torch.testing.assert_close(ours.hidden_BKH[labelled_BK], theirs.hidden_BKH[labelled_BK], rtol=1e-4, atol=1e-4)


def test_a_model_that_takes_no_mask_of_ours_is_found_out(base):
    examples = [Tokenized("a", (*SHARED, 40, 41, 2), 13, False), Tokenized("b", (*SHARED, 42, 2), 13, False)]
    assert can_share(load_model(base), examples, pad=PAD)

    class Blind(torch.nn.Module):
        """As a model that knows its own causal mask alone."""

        def __init__(self):
            super().__init__()
            self.inner = load_model(base)
            self.config = self.inner.config

        def forward(self, input_ids, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
            return self.inner(input_ids=input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep)

    assert not can_share(Blind(), examples, pad=PAD)


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
