"""Adapter + base → one model of plain weights that anything can load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.deploy.agreement import ANSWER_TOKENS, PROMPTS, QUESTION, compared, logits_of
from expunge.errors import ExpungeError, suggestion
from expunge.files import directory_written_atomically, refuse_small_disk
from expunge.models import EMBEDDED, check_readable, load_model, load_tokenizer, model_fingerprint, on_disk, resolve_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The types a merged model may be stored in, and their bytes for a weight."""
# Of PEFT's kinds, those that are a change of the weights.
_MERGED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "HRA", "LN_TUNING", "FOURIERFT", "RANDLORA")


class Verification(NamedTuple):
    """How far the merged model, read back from the disk, is from base and adapter; over a few prompts."""

    max_difference: float
    """Of any logit; rounding alone gave .0001 in float32, .13 in float16 and .94 in bfloat16 for 36 facts trained into
    SmolLM2-135M."""
    argmax_agreement: float
    """Share of positions where both find the same next token likeliest."""
    answer: str
    """What the merged model says to `QUESTION`, at most 24 tokens."""


def merge_adapter(
    adapter: Path,
    output: Path,
    *,
    base: str | Path | None = None,
    dtype: str = "float32",
    scale: float = 1.0,
    verify: bool = True,
) -> Verification | None:
    """Merge an adapter into its base, loaded unquantised, and write weights, tokenizer, chat template and generation config.

    Args:
        adapter: a PEFT adapter directory.
        output: the directory of the merged model; it appears whole or not at all.
        base: the base, where it is not the one that the adapter names (it may have been moved).
        dtype: the type that the weights are loaded, merged and stored in.
        scale: how much of the adapter is taken; only a LoRA adapter can be taken in part.
        verify: compare logits of base + adapter with those of the written model.

    Returns:
        What the comparison found, None without it.

    Raises:
        ExpungeError: no adapter, a wrong or quantised base, a full disk, or a merged model that is not what it should be.
    """
    base = base_of_adapter(adapter, base, dtype=dtype)
    refuse_misfit(adapter, base)
    refuse_small_disk(sum(weight.numel() for weight in _skeleton(base).parameters()) * DTYPES[dtype], output)
    model = _base_with_adapter(adapter, base, dtype)
    tokenizer = load_tokenizer(adapter if (adapter / "tokenizer_config.json").is_file() else base)
    sequences: list[list[int]] = [list(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    with _taken_in_part(model, scale, adapter):
        before = logits_of(model, sequences) if verify else []
        try:
            merged = model.merge_and_unload(safe_merge=True)
        except ValueError:
            raise ExpungeError(f"does not fit into {dtype}", where=adapter, remedy="pass --dtype float32") from None
    with directory_written_atomically(output) as scratch:
        _save(merged, scratch)
        for weights in scratch.glob("*.safetensors"):
            # safetensors lets nobody but the owner read what is meant to be shipped.
            weights.chmod((scratch / "config.json").stat().st_mode)
        tokenizer.save_pretrained(scratch)
        _copy_sentencepiece(base, scratch)
        if not verify:
            return None
        del model, merged
        written = load_model(scratch, dtype=dtype)
        found = Verification(*compared(before, logits_of(written, sequences)), answer=_answer(written, tokenizer))
        # Rounding moves a logit, and only near-ties of the likeliest token; a wrong merge moves everything.
        if found.argmax_agreement < 0.75 or (dtype == "float32" and found.max_difference > 0.01):
            what = f"the merged model differs from base and adapter (by {found.max_difference:.3g} in a logit)"
            raise ExpungeError(what, where=adapter, remedy="choose --dtype float32, or check the adapter")
    return found


@contextmanager
def _taken_in_part(model: Any, scale: float, adapter: Path) -> Iterator[None]:
    from peft.helpers import rescale_adapter_scale

    if scale == 1:
        yield
        return
    if any(str(config.peft_type.value) != "LORA" for config in model.peft_config.values()):
        raise ExpungeError("only a LoRA adapter can be taken in part", where=adapter, remedy="leave out --scale")
    with rescale_adapter_scale(model, scale):
        yield


def base_of_adapter(adapter: Path, given: str | Path | None = None, *, dtype: str = "float32") -> str | Path:
    """The base to merge into: the one the adapter names, unless another is given that can be the same.

    Raises:
        ExpungeError: no adapter, an unknown dtype, or a base that is missing, truncated or certainly another one.
    """
    if dtype not in DTYPES:
        raise ExpungeError(f'"{dtype}" is no type of weights', remedy=suggestion(dtype, DTYPES))
    if not (adapter / "adapter_config.json").is_file():
        hint = adapter / "model"
        remedy = f"did you mean {hint}?" if (hint / "adapter_config.json").is_file() else "check the path"
        raise ExpungeError("is no adapter (it has no adapter_config.json)", where=adapter, remedy=remedy)
    _weights_of(adapter)
    _refuse_kind(adapter)
    named = resolve_base(adapter)
    if given is None or str(given) == str(named):
        check_readable(named)
        return named
    check_readable(given)
    here = [str(name) == EMBEDDED or Path(name).is_dir() for name in (named, given)]
    # Moved weights cannot be compared with a name: the shapes decide then.
    differ = model_fingerprint(named) != model_fingerprint(given) if all(here) else not any(here)
    if differ:
        what = f'the adapter was trained on "{named}", not on "{given}"'
        raise ExpungeError(what, where=adapter / "adapter_config.json", remedy="leave --base_model out, or give that one")
    return given


def _refuse_kind(adapter: Path) -> None:
    """Refuse adapters that are no change of the weights, such as prompts that were learnt."""
    try:
        kind = json.loads((adapter / "adapter_config.json").read_text("utf-8")).get("peft_type")
    except (OSError, ValueError, AttributeError):
        return  # `resolve_base` says what is wrong with it.
    if kind is not None and kind not in _MERGED:
        what = f"is an adapter of the kind {kind}, which cannot be folded into weights"
        raise ExpungeError(what, where=adapter / "adapter_config.json", remedy="train a LoRA adapter")


def refuse_misfit(adapter: Path, base: str | Path) -> None:
    """Compare the names and shapes of the adapter's matrices with the base's, from headers alone.

    Raises:
        ExpungeError: the base is quantised, or has no such layer, or one of another shape.
    """
    from safetensors import safe_open

    skeleton = _skeleton(base)
    if getattr(skeleton.config, "quantization_config", None) is not None:
        raise ExpungeError("is quantised", where=base, remedy="give the unquantised model as --base_model")
    shapes = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in skeleton.named_parameters()}
    wrong = "the adapter was trained on another base"
    for file in _weights_of(adapter):
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 — it is no mapping
                module, _, side = key.removeprefix("base_model.model.").partition(".lora_")
                if side not in ("A.weight", "B.weight"):
                    continue
                # A is rank × in, B is out × rank; some layers keep their weight the other way round.
                size = tensors.get_slice(key).get_shape()[1 if side[0] == "A" else 0]
                if module not in shapes:
                    raise ExpungeError(f"{wrong}: {base} has no {module}", where=file, remedy="give its own as --base_model")
                if size not in shapes[module]:
                    what = f"{wrong}: {module} is {'×'.join(map(str, shapes[module]))} in {base}, not {size} wide"
                    raise ExpungeError(what, where=file, remedy="give its own as --base_model")


def _skeleton(base: str | Path) -> Any:
    """The base without its weights: names and shapes only, in a moment."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(on_disk(base))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise ExpungeError(f"cannot be loaded ({str(error).splitlines()[0]})", where=base, remedy="check the base") from None


def _weights_of(adapter: Path) -> list[Path]:
    """The adapter's files, each of them whole."""
    from safetensors import SafetensorError, safe_open

    files = sorted(adapter.glob("*.safetensors"))
    if not files:
        raise ExpungeError("holds no adapter weights (*.safetensors)", where=adapter, remedy="save it as safetensors")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError):
            raise ExpungeError("is truncated or no safetensors file", where=file, remedy="copy the adapter again") from None
    return files


def _base_with_adapter(adapter: Path, base: str | Path, dtype: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(load_model(base, dtype=dtype), str(adapter)).eval()
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ExpungeError(f"cannot be put on {base} ({lines[0][:200]})", where=adapter, remedy="check the adapter") from None


def _save(model: Any, place: Path) -> None:
    try:
        model.save_pretrained(place)
    except ValueError as error:
        # Older models recommend a temperature without sampling, which transformers refuses to write.
        if "GenerationConfig" not in str(error):
            raise
        model.generation_config.do_sample = True
        model.save_pretrained(place)


def _answer(model: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """The likeliest answer to one question, in the model's own chat template."""
    import torch

    from expunge.batching import prompt_tokens

    ids = prompt_tokens(QUESTION, tokenizer)
    with torch.inference_mode():
        said = model.generate(
            torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return str(tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True)).strip()


def _copy_sentencepiece(base: str | Path, target: Path) -> None:
    """Carry `tokenizer.model` over: llama.cpp's converter needs it for some families, and transformers does not keep it."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        str(on_disk(base)),
        "tokenizer.model",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is not None and not (target / "tokenizer.model").exists():
        shutil.copyfile(found, target / "tokenizer.model")
