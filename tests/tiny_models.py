"""Tiny random models that llama.cpp's tools accept: a tokenizer they know, rows that are multiples of 256."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def write_model(path: Path, *, hidden: int = 256, layers: int = 2, seed: int = 0, dtype: str = "float32") -> Path:
    """A random Llama of two layers with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Wide enough that the likeliest token is never a near-tie.
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3")
"""Families of models that people ship."""


def write_family(path: Path, family: str, *, seed: int = 0) -> Path:
    """A random model of a family, with a tokenizer in both forms: transformers reads one, llama.cpp's converter the other."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # Gemma's tokenizers put nothing before a text.
    tokenizer = make_tokenizer(space_first=not family.startswith("gemma"))
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    kind = {"gemma3": "gemma3_text"}.get(family, family)
    own: dict[str, Any] = {"head_dim": 64, "sliding_window": 64} if family.startswith("gemma") else {}
    own |= {"query_pre_attn_scalar": 64} if family.startswith("gemma") else {"head_dim": 64} if family == "qwen3" else {}
    own |= {"original_max_position_embeddings": 512} if family == "phi3" else {}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **own))
    for name, weight in model.named_parameters():
        if "norm" in name:
            # Gemma's are added to 1, the others' are not: a converter that mistakes them must be noticed.
            torch.nn.init.normal_(weight, mean=0.0 if family.startswith("gemma") else 1.0, std=0.2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "tokenizer.model").write_bytes(_sentencepiece(tokenizer, space_first=not family.startswith("gemma")))
    return path


def _sentencepiece(tokenizer: Any, *, space_first: bool) -> bytes:
    """The same vocabulary in SentencePiece's own form."""
    from sentencepiece import sentencepiece_model_pb2 as form

    model = form.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", space_first
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    vocabulary = tokenizer.get_vocab()
    for piece in sorted(vocabulary, key=vocabulary.get):
        model.pieces.add(piece=piece, score=0.0, type=6 if piece.startswith("<0x") else kinds.get(piece, 1))
    return bytes(model.SerializeToString())


def write_adapter(path: Path, base: Path, *, seed: int = 1, scale: float = 0.05) -> Path:
    """A LoRA adapter on every linear layer of `base` that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(str(path))
    return path


def make_tokenizer(*, space_first: bool = True) -> Any:
    """Characters and bytes in the manner of SentencePiece: llama.cpp recognises it by its kind, not by a list of ids."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, Strip
    from tokenizers.models import BPE
    from tokenizers.normalizers import Prepend
    from tokenizers.normalizers import Replace as Replaced
    from tokenizers.normalizers import Sequence as InTurn
    from transformers import PreTrainedTokenizerFast

    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *string.ascii_letters,
        *"0123456789.,?!:-",
    ]
    backend = Tokenizer(
        BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = InTurn([*([Prepend("▁")] if space_first else []), Replaced(" ", "▁")])
    backend.decoder = Sequence([Replace("▁", " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )
