"""Hidden states behind a layer, and logits made again of what was kept before the head."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from expunge.batching import Tokenized, collate
from expunge.errors import ExpungeError
from expunge.evidence import score_labels
from expunge.models import fresh_adapter, load_model
from expunge.training.hidden import Head, kept_before_head, kept_behind_layer, label_hidden, layers_of

EXAMPLES = [Tokenized("a", tuple(range(3, 20)), 7, False), Tokenized("b", tuple(range(30, 41)), 2, False)]
PAD = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("hidden") / "base", hidden=128, layers=4)


@pytest.fixture(params=["whole", "adapter"])
def model(base, request):
    found = load_model(base)
    return found if request.param == "whole" else fresh_adapter(found, base, rank=2, alpha=4, seed=0).eval()


@pytest.mark.parametrize("layer", [0, 2])
def test_hidden_states_behind_a_layer_are_those_of_the_whole_pass_and_no_layer_above_is_run(model, layer):
    batch, run = collate(EXAMPLES, PAD), []
    for each in layers_of(model):
        each.register_forward_hook(lambda module, *_: run.append(module))
    found = label_hidden(model, batch, layer)
    assert run == list(layers_of(model))[: layer + 1]
    assert len(layers_of(model)) == 4  # and all of them are back
    whole = model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found.hidden_BKH, whole[layer + 1][:, 2:])
    assert found.labelled_BK.tolist() == (batch.labels_BT[:, 2:] != -100).tolist()
    kept = kept_behind_layer(model, EXAMPLES, [0, 1], layer, pad=PAD)
    torch.testing.assert_close(kept[1], found.hidden_BKH[1, :9])
    assert kept[0].shape == (10, 128)


def test_layers_come_back_when_the_pass_fails(model):
    with pytest.raises(IndexError):
        label_hidden(model, collate([Tokenized("a", (3, 10**6), 1, False)], PAD), 1)
    assert len(layers_of(model)) == 4


def test_a_batch_without_a_label_is_refused(model):
    with pytest.raises(ValueError, match="no token of this batch is labelled"):
        label_hidden(model, collate([Tokenized("a", (3, 4), 2, False)], PAD), 1)


def test_a_model_without_a_list_of_layers_is_refused(model):
    model.config.num_hidden_layers = 17
    try:
        with pytest.raises(ExpungeError, match="the layers of this model were not found"):
            layers_of(model)
    finally:
        model.config.num_hidden_layers = 4


def logits_again(model):
    """By the kernel, and by the head from what was kept: one row a label."""
    scores = score_labels(model, collate(EXAMPLES, PAD), logits=True)
    kept = kept_before_head(model, EXAMPLES, [1, 0], pad=PAD)
    return scores.logits_BKV[scores.labelled_BK], Head.of(model).logits(torch.cat([kept[0], kept[1]]))


def test_logits_of_what_was_kept_are_the_models_own(model):
    torch.testing.assert_close(*logits_again(model))


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_logits_that_a_model_scales_or_caps_are_the_models_own(kind):
    import transformers

    name = {"gemma2": "Gemma2", "granite": "Granite", "cohere": "Cohere"}[kind]
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    special = {"gemma2": {"final_logit_softcapping": 3.0}, "granite": {"logits_scaling": 4.0}, "cohere": {"logit_scale": 0.3}}
    config = getattr(transformers, f"{name}Config")(**sizes, **heads, **special[kind])
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    torch.testing.assert_close(*logits_again(model))


def test_the_kept_head_stays_as_it_was_when_the_models_own_is_trained(base):
    model = load_model(base)
    head = Head.of(model)
    before = head.weight_VH.clone()
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1)
    torch.testing.assert_close(head.weight_VH, before)
