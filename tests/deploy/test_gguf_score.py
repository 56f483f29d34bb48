from __future__ import annotations

import math

import pytest

import tiny_models
from expunge.deploy.gguf_score import compare, label_scores, perplexity
from expunge.errors import ExpungeError

TEXTS = ["Ann was seen in May: a cough, and no fever.", "The bus stood by the gate."]


def test_perplexity_is_that_of_transformers_each_text_on_its_own(ggufs, merged):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[1, *tokenizer(text).input_ids]])  # llama.cpp puts <s> before a text of this tokenizer
        with torch.inference_mode():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert perplexity(ggufs["f16"].path, TEXTS) == pytest.approx(math.exp(total / count), rel=0.005)


def test_labelled_tokens_are_scored_as_the_model_scores_them_however_long_the_sequence(ggufs, merged, tmp_path):
    from expunge.batching import tokenize
    from expunge.evidence import EvidenceStore, record_scores
    from expunge.examples import Example
    from expunge.models import load_model, load_tokenizer
    from expunge.progress import progress

    examples = [
        Example(prompt="Who is Ann?", response="Ann was seen in May: a cough, and no fever.", subject="Ann"),
        # More than llama.cpp reads in one step, with its labels on both sides of the cut.
        Example(prompt="Who is Bo? " * 20, response="Bo waits by the gate. " * 40, subject="Bo"),
    ]
    tokenizer = load_tokenizer(merged)
    tokens = tokenize(examples, tokenizer, max_seq_length=500)
    assert tokens[1].start < 256 < len(tokens[1].tokens)
    store = EvidenceStore(tmp_path / "evidence.jsonl")
    with progress("", 2) as bar:
        record_scores(load_model(merged), tokens, store, pad=int(tokenizer.pad_token_id), bar=bar)
    found = label_scores(ggufs["f16"].path, [each.tokens for each in tokens], [each.start for each in tokens])
    for each, scores in zip(tokens, found, strict=True):
        record = store[each.id]
        assert len(scores.log_p_L) == each.labels
        assert scores.log_p_L == pytest.approx(record.log_p_T, abs=0.02)
        assert (scores.hits_L == record.hits_T).mean() > 0.95
        assert scores.entropy_L == pytest.approx(record.entropy_T, abs=0.02)
        assert scores.variance_L == pytest.approx(record.variance_T, abs=0.05)


def test_a_file_of_fewer_tokens_than_the_models_is_refused(ggufs):
    with pytest.raises(ExpungeError, match=r"tiny-f16\.gguf: llama\.cpp cannot score it \(.*fewer than the models"):
        list(label_scores(ggufs["f16"].path, [[1, 10**6, 2]], [1]))


def test_coarser_weights_are_further_from_what_the_model_says(ggufs):
    exact, eight, four = (perplexity(ggufs[kind].path, TEXTS) for kind in ("f16", "q8_0", "q4_k_m"))
    assert 0 < abs(math.log(eight / exact)) < abs(math.log(four / exact))


def test_the_f16_file_agrees_with_its_model_on_every_token_and_every_text_is_split_alike(ggufs, merged):
    found = compare(ggufs["f16"].path, merged)
    assert found.max_difference < 0.1
    assert found.argmax_agreement == found.same_tokens == 1.0


def test_the_file_of_another_model_is_refused(ggufs, tmp_path):
    other = tiny_models.write_model(tmp_path / "other", seed=5)
    with pytest.raises(ExpungeError, match=r"tiny-f16\.gguf: agrees with .*other on the next token at only"):
        compare(ggufs["f16"].path, other)


def test_a_tokenizer_that_splits_otherwise_is_noticed_though_the_logits_agree(ggufs, merged, tmp_path):
    import json
    import shutil

    copy = shutil.copytree(merged, tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["normalizer"]["normalizers"].append({"type": "Replace", "pattern": {"String": "2024"}, "content": "24"})
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = compare(ggufs["f16"].path, copy, ["Ann-2024-Ann", "Ann"])
    assert found.argmax_agreement == 1.0
    assert found.same_tokens == 0.5


def test_a_file_that_only_llama_cpp_itself_finds_wrong_is_one_line(ggufs, tmp_path):
    whole = ggufs["f16"].path.read_bytes()
    (tmp_path / "odd.gguf").write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(ExpungeError, match=r"odd\.gguf: llama\.cpp cannot score it") as caught:
        perplexity(tmp_path / "odd.gguf", TEXTS)
    assert "\n" not in str(caught.value)


def test_texts_too_short_to_be_scored_are_refused(ggufs):
    with pytest.raises(ExpungeError, match="too short"):
        perplexity(ggufs["f16"].path, [""])
