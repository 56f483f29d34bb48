"""Models by name, without the caller knowing whether it is whole weights or an adapter."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ExpungeError
from expunge.files import fingerprint, sha256
from expunge.models.embedded import EMBEDDED, embedded_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
_CONTENT = ("*.safetensors", "config.json", "tokenizer.json")


def resolve_base(name: str | Path) -> str | Path:
    """The name of the weights under an adapter, or the name itself when it is no adapter."""
    path = Path(name)
    if (path / ADAPTER_CONFIG).is_file():
        return str(_adapter_config(path)["base_model_name_or_path"])
    return name


def check_readable(name: str | Path) -> None:
    """Refuse, before any weights are loaded, a model that is not there or is broken on disk.

    Raises:
        ExpungeError: no such directory, no weights in it, or a weights file that is truncated.
    """
    path = Path(name)
    if str(name) == EMBEDDED:
        embedded_directory()
        return
    if not path.exists():
        if _looks_like_a_path(str(name)):
            raise ExpungeError("no such model", where=path, remedy='give a model directory, a Hub id, or "embedded"')
        return  # A Hub id: transformers will say whether it is there.
    if path.is_file():
        raise ExpungeError("is a file, not a model directory", where=path, remedy="name the directory that holds it")
    weights = sorted(path.glob("*.safetensors"))
    if not weights or not any((path / config).is_file() for config in ("config.json", ADAPTER_CONFIG)):
        raise ExpungeError(
            "is no model directory (it needs *.safetensors beside config.json or adapter_config.json)",
            where=path,
            remedy="check the path",
        )
    for file in weights:
        _check_whole(file)
    if (path / ADAPTER_CONFIG).is_file():
        check_readable(resolve_base(path))


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with its chat template; padding on the right, for training."""
    from transformers import AutoTokenizer

    _quiet()
    own = Path(name) / "tokenizer_config.json"
    place = Path(name) if own.is_file() else _on_disk(resolve_base(name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ExpungeError(
            f"its tokenizer cannot be loaded ({_first_line(error)})", where=name, remedy="check the model"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(name: str | Path, *, dtype: str = "float32", trainable: bool = False) -> PreTrainedModel | PeftModel:
    """A causal language model, in evaluation mode; a PEFT model when `name` is an adapter.

    Args:
        name: `embedded`, a Hub id, a directory of weights, or an adapter directory (its base is found by its config).
        dtype: of the base's weights: `float32`, `bfloat16`, `float16`.
        trainable: whether the adapter's weights may be trained further.

    Raises:
        ExpungeError: it is missing, truncated or not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _quiet()
    check_readable(name)
    base = resolve_base(name)
    model: Any  # transformers' own annotations do not survive `.eval()` and `.to()`.
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            _on_disk(base), dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
        )
        model, loaded_weights = read
        if missing := sorted(loaded_weights["missing_keys"]):
            # transformers would fill them with random numbers.
            raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
        if str(base) != str(name):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(name), is_trainable=trainable)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExpungeError(f"cannot be loaded ({_first_line(error)})", where=name, remedy="check the model") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded: PreTrainedModel | PeftModel = model.eval().to(device)
    return loaded


def fresh_adapter(model: Any, base: str | Path, *, rank: int, alpha: int, seed: int) -> PeftModel:
    """A new LoRA adapter on every linear layer of `model`, initialised from `seed` to change nothing yet.

    Hu et al. 2021, arXiv 2106.09685; on all linear layers, as Biderman et al. 2024 (arXiv 2405.09673) found best.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    # The name, not the place it was loaded from: the adapter must load on other machines too.
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    return adapted


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Save an adapter with its tokenizer and chat template beside it."""
    model.save_pretrained(str(path), save_embedding_layers=False)
    tokenizer.save_pretrained(path)


def model_fingerprint(name: str | Path) -> str:
    """SHA-256 over a model's weights, config and tokenizer, and over its base's when it is an adapter.

    A Hub id is resolved to the commit it now stands for.
    """
    path = _on_disk(name)
    if not isinstance(path, Path):
        return fingerprint(_hub_commit(path))
    content = {file.name: _cached_sha256(file, *_stamp(file)) for pattern in _CONTENT for file in path.glob(pattern)}
    if not (path / ADAPTER_CONFIG).is_file():
        return fingerprint(content)
    config = _adapter_config(path)
    # PEFT writes this list in the order of a set: another one in every process.
    config["target_modules"] = sorted(config.get("target_modules") or ())
    return fingerprint([content, config, model_fingerprint(config["base_model_name_or_path"])])


@lru_cache(maxsize=256)
def _cached_sha256(path: Path, _size: int, _modified: int) -> str:
    return sha256(path)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _quiet() -> None:
    """Our own progress is enough, and nobody who trains can act on what the libraries tell each other."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # PEFT asks every model by the property's old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def _on_disk(name: str | Path) -> Path | str:
    if str(name) == EMBEDDED:
        return embedded_directory()
    return Path(name) if Path(name).exists() else str(name)


def _hub_commit(name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.file_download import try_to_load_from_cache

    try:
        return f"{name}@{HfApi().model_info(name).sha}"
    except Exception:  # Whatever the HTTP library of the day raises where there is no network.
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return f"{name}@{Path(cached).parent.name}"
    raise ExpungeError(
        f'model "{name}" is neither on disk nor reachable on the Hub', remedy='check the name, or use "embedded"'
    )


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name


def _adapter_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / ADAPTER_CONFIG).read_text("utf-8"))
        if isinstance(config, dict) and config.get("base_model_name_or_path"):
            return config
        what = "names no base model"
    except (OSError, ValueError) as error:
        what = f"cannot be read ({_first_line(error)})"
    raise ExpungeError(what, where=path / ADAPTER_CONFIG, remedy="save the adapter again with PEFT")


def _check_whole(path: Path) -> None:
    """A safetensors file is its header's length (8 bytes), the header, and exactly the bytes the header promises."""
    what = None
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        size = path.stat().st_size
        if len(prefix) < 8 or length > size:
            what = "is truncated or no safetensors file"
        else:
            try:
                header = json.loads(stream.read(length))
                ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
                if 8 + length + max(ends, default=0) != size:
                    what = f"is truncated ({size} of {8 + length + max(ends, default=0)} bytes)"
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                what = "is no safetensors file"
    if what:
        raise ExpungeError(what, where=path, remedy="copy or download the model again")


def _first_line(error: BaseException) -> str:
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:200]
