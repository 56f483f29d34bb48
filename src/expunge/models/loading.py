"""Models by name, without the caller knowing whether it is whole weights or an adapter."""

from __future__ import annotations

import json
import logging
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.errors import ExpungeError
from expunge.files import fingerprint, sha256
from expunge.models.embedded import EMBEDDED, embedded_directory
from expunge.processes import on_this_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
# On processors that multiply bfloat16, bitsandbytes looks for a faster kernel as soon as PEFT imports it, and complains that
# there is none.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
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
    place = Path(name) if own.is_file() else on_disk(resolve_base(name))
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


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    bits: Literal[4, 8] | None = None,
    four_bits: Literal["nf4", "fp4"] = "nf4",
    trainable: bool = False,
) -> PreTrainedModel | PeftModel:
    """A causal language model, in evaluation mode; a PEFT model when `name` is an adapter.

    Args:
        name: `embedded`, a Hub id, a directory of weights, or an adapter directory (its base is found by its config).
        dtype: of the base's weights: `float32`, `bfloat16`, `float16`; with `bits`, what is computed in.
        bits: keep the base's linear layers in so many bits a weight, by bitsandbytes (Dettmers et al. 2023, arXiv
            2305.14314: NF4 with double quantisation; 2022, arXiv 2208.07339: LLM.int8). They cannot be trained.
        four_bits: which 16 values 4 bits stand for.
        trainable: whether the adapter's weights may be trained further.

    Raises:
        ExpungeError: it is missing, truncated or not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _quiet()
    check_readable(name)
    base = resolve_base(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and on_this_machine() > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if bits is not None:
        options |= {"quantization_config": _quantisation(bits, options["dtype"], four_bits), "device_map": {"": device}}
    model: Any  # transformers' own annotations do not survive `.eval()` and `.to()`.
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            on_disk(base), use_safetensors=True, output_loading_info=True, **options
        )
        model, loaded_weights = read
        if missing := sorted(loaded_weights["missing_keys"]):
            # transformers would fill them with random numbers.
            raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
        if str(base) != str(name):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(name), is_trainable=trainable)
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ExpungeError(f"cannot be loaded ({_first_line(error)})", where=name, remedy="check the model") from None
    if bits == 4 and trainable:
        _keep_four_bits_differentiable(model)
    loaded: PreTrainedModel | PeftModel = model.eval() if bits else model.eval().to(device)
    return loaded


def _keep_four_bits_differentiable(model: Any) -> None:
    """Keep bitsandbytes from packing frozen weights for inference, on processors that multiply bfloat16.

    It does so at the first pass in evaluation mode, for good, and no gradient goes through what is packed: after the first
    evaluation the layers below would learn from what is left of theirs.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_plain(name: str | Path) -> Any:
    """A model ready to be asked: its adapter folded in, which spares two small products a layer for every token."""
    from expunge.models.linears import quicken

    model: Any = load_model(name)
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    quicken(model)
    return model


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: PyTorch's allocator for processors has no class for it."""
    import torch

    signs = ("DefaultCPUAllocator", "CUDA out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


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


def save_trained(model: PreTrainedModel | PeftModel, path: Path, *, state_dict: dict[str, Any] | None = None) -> None:
    """Save the weights that were trained: an adapter alone, or all of them, with their config.

    Args:
        state_dict: the weights, gathered, where the model itself holds only a part of them.
    """
    # "auto" would ask the Hub whether the vocabulary was resized.
    adapter: dict[str, Any] = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(str(path), state_dict=state_dict, **adapter)


def model_fingerprint(name: str | Path) -> str:
    """SHA-256 over a model's weights, config and tokenizer, and over its base's when it is an adapter.

    A Hub id is resolved to the commit it now stands for.
    """
    path = on_disk(name)
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
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # PEFT asks every model by the property's old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def on_disk(name: str | Path) -> Path | str:
    """The directory of a model, or its Hub id if there is none here."""
    if str(name) == EMBEDDED:
        return embedded_directory()
    return Path(name) if Path(name).exists() else str(name)


def _quantisation(bits: Literal[4, 8], dtype: Any, four_bits: str) -> Any:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=four_bits, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


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
