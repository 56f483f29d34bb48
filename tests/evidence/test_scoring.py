"""The one scoring kernel against the log-softmax of the whole output."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from expunge.batching import TokenBatch, Tokenized, collate
from expunge.evidence import losses, mean_loss, score_labels
from expunge.models import load_model

PAD = 2


def example(length, start, seed):
    ids = torch.randint(3, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Tokenized(f"{seed}", tuple(ids), start, False)


# Prompts and answers of all lengths: a long prompt with a short answer, and the other way round.
EXAMPLES = [example(*shape) for shape in ((12, 9, 0), (20, 3, 1), (5, 4, 2), (17, 16, 3), (9, 1, 4))]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_models.write_model(tmp_path_factory.mktemp("scoring") / "model", hidden=64))


def whole_logits(model, batch):
    """(B, T-1, V) what the model says of the next token, with nothing spared."""
    return model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits[:, :-1].float()


def test_log_probabilities_are_those_of_the_whole_output_and_hits_its_likeliest_tokens(model):
    batch = collate(EXAMPLES, PAD)
    with torch.inference_mode():
        scores = score_labels(model, batch, hits=True)
        logits = whole_logits(model, batch)
    for row, (tokens, start) in enumerate((one.tokens, one.start) for one in EXAMPLES):
        following = torch.tensor(tokens[start:])
        # The token at t is predicted at t - 1.
        predicted = logits[row, start - 1 : len(tokens) - 1]
        expected = predicted.log_softmax(-1).gather(1, following[:, None])[:, 0]
        found = scores.log_p_BK[row][scores.labelled_BK[row]]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert scores.hits_BK[row][scores.labelled_BK[row]].tolist() == (predicted.argmax(-1) == following).tolist()
        assert scores.log_p_B[row].item() == pytest.approx(expected.sum().item(), abs=1e-4)
        assert scores.tokens_B[row] == len(tokens) - start
    assert not scores.log_p_BK[~scores.labelled_BK].any()
    assert not scores.hits_BK[~scores.labelled_BK].any()
    assert score_labels(model, batch).hits_BK is None


def test_a_hit_is_a_token_the_model_would_have_said_itself(model):
    prompt = [5, 6, 7]
    said = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, pad_token_id=PAD)[0].tolist()
    recited = Tokenized("recited", tuple(said), 3, False)
    other = Tokenized("other", (*said[:4], (said[4] + 1) % 250, *said[5:]), 3, False)
    hits = score_labels(model, collate([recited, other], PAD), hits=True).hits_BK
    assert hits[0].all()
    assert hits[1, 0]
    assert not hits[1, 1]


def test_an_example_scores_alone_as_it_does_in_a_batch(model):
    with torch.inference_mode():
        together = score_labels(model, collate(EXAMPLES, PAD)).log_p_B
        for row, one in enumerate(EXAMPLES):
            alone = score_labels(model, collate([one], PAD)).log_p_B[0]
            assert alone.item() == pytest.approx(together[row].item(), abs=1e-5)


def test_what_stands_in_the_padding_changes_nothing(model):
    with torch.inference_mode():
        found = [score_labels(model, collate(EXAMPLES, pad)).log_p_BK for pad in (PAD, 77)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_a_batch_without_labels_is_an_error_of_the_programmer(model):
    batch = collate(EXAMPLES, PAD)
    with pytest.raises(ValueError, match="no token of this batch is labelled"):
        score_labels(model, TokenBatch(batch.input_ids_BT, batch.attention_mask_BT, torch.full_like(batch.labels_BT, -100)))


def test_gradients_are_those_of_the_plain_loss_over_the_whole_output(model):
    batch = collate(EXAMPLES, PAD)

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    scores = score_labels(model, batch)
    spared = gradients(-scores.log_p_BK.sum() / scores.labelled_BK.sum())
    plain = gradients(
        torch.nn.functional.cross_entropy(whole_logits(model, batch).flatten(0, 1), batch.labels_BT[:, 1:].flatten())
    )
    for name in plain:
        torch.testing.assert_close(spared[name], plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_mean_loss_counts_every_example_the_same_however_long_its_answer(model):
    by_hand = []
    for one in EXAMPLES:
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor([one.tokens]), labels=torch.tensor([[-100] * one.start + [*one.tokens[one.start :]]])
            )
        by_hand.append(output.loss.item())
    assert losses(model, EXAMPLES, pad=PAD).tolist() == pytest.approx(by_hand, abs=1e-5)
    assert mean_loss(model, EXAMPLES, pad=PAD) == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-5)
