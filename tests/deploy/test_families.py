"""Every family of models goes the whole way: adapter, merge, GGUF, a 4-bit file that answers."""

from __future__ import annotations

import pytest

import tiny_models
from expunge.deploy.gguf import make_gguf
from expunge.deploy.gguf_file import read_gguf
from expunge.deploy.gguf_score import Comparison, compare
from expunge.deploy.llama_cpp import LlamaServer
from expunge.deploy.merge import merge_adapter

TEXTS = ["The capital of France is", "Ann was seen on 2024-03-20: a cough.", "born 1956 in Malmö"]


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_model_of_each_family_is_merged_converted_and_asked(family, tmp_path):
    base = tiny_models.write_family(tmp_path / "base", family)
    adapter = tiny_models.write_adapter(tmp_path / "adapter", base)
    merged = tmp_path / "merged"
    assert merge_adapter(adapter, merged, base=base).argmax_agreement == 1.0
    found: list[Comparison] = []
    files = make_gguf(
        merged,
        tmp_path / "gguf",
        ["q8_0", "q4_k_m"],
        # Not the family's name: llama.cpp looks for Phi-3's own special tokens in whatever is called phi3.
        name="tiny",
        proof=lambda f16: found.append(compare(f16, merged, TEXTS)),
    )
    # Random models have near-ties, which f16 decides otherwise; a wrong conversion agrees nowhere.
    assert found[0].argmax_agreement > 0.95
    # For qwen2, transformers puts another tokenizer in the place of the one that was saved.
    assert found[0].same_tokens == 1.0 or family == "qwen2"
    assert found[0].max_difference < 0.1
    assert read_gguf(files[1].path).architecture == {"mistral": "llama"}.get(family, family)
    with LlamaServer(files[1].path, threads=1, context=128) as server:
        (answer,) = server.ask(["Who are you?"], max_tokens=6)
    assert answer.tokens >= 1
