"""GGUF: write a model as files that llama.cpp and LM Studio load, and ask every file before claiming that it works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.progress import console
from expunge.runs import Run, settings_of

LOG = "llama.cpp.log"
"""What llama.cpp's tools say, inside the run."""

_PROMPT = "Hello! Who are you?"
_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


@dataclass(frozen=True, kw_only=True)
class GgufConfig:
    """Convert a merged model to GGUF and quantise it, with llama.cpp's own tools."""

    model_path: Path
    """Directory of the merged model."""
    output_path: Path
    """Run directory for the files."""
    quant_type: tuple[str, ...] = ("f16", "q4_k_m")
    """f16, q8_0, q6_k, q5_k_m, q4_k_m, q4_k_s, q3_k_m, or all; may be given several times."""
    llama_cpp_path: Path | None = None
    """A llama.cpp checkout to take converter and quantiser from, instead of the installed packages."""
    model_name: str = "model"
    """Begins the files' names (`model-q4_k_m.gguf`) and is the model's name inside them."""
    threads: int | None = None
    """Processor threads for quantising; every core by default. The files do not depend on it."""


def gguf(config: GgufConfig) -> Run:
    """Write one file for each type; each is loaded in llama.cpp and has answered a prompt when this returns.

    Raises:
        ExpungeError: no model directory, truncated weights, an unknown architecture, a missing package, a full disk, or a
            file that does not load.
    """
    from expunge.deploy.gguf import check_model_directory, check_types, find_converter, find_quantiser, make_gguf
    from expunge.deploy.llama_cpp import available_cores
    from expunge.deploy.parts import SERVER, require
    from expunge.models import model_fingerprint

    types = check_types(config.quant_type)
    if not config.model_name.strip(".") or set(config.model_name) - set(_NAME):
        raise ExpungeError(f'--model_name "{config.model_name}" cannot begin a file name', remedy="use letters, digits, . _ -")
    if config.threads is not None and config.threads < 1:
        raise ExpungeError(f"--threads is {config.threads}", remedy="give at least 1")
    check_model_directory(config.model_path)
    # Whatever is missing is said before the work, not after half of it.
    require(SERVER)
    find_converter(config.llama_cpp_path)
    find_quantiser(config.llama_cpp_path)

    settings = settings_of(config, without=("model_path", "output_path", "threads")) | {"quant_type": types}
    with Run.open(config.output_path, "gguf", settings, {"model_path": model_fingerprint(config.model_path)}) as run:
        if run.finished:
            return run
        with run.timed("convert and quantise"):
            files = make_gguf(
                config.model_path,
                run.path,
                types,
                name=config.model_name,
                llama_cpp=config.llama_cpp_path,
                threads=config.threads or available_cores(),
                log=run.path / LOG,
            )
        table = {}
        with run.timed("ask"):
            for file in files:
                answer = ask_once(file.path)
                table[file.type] = file._asdict() | {"path": file.path.name, "answer": answer}
                console.print(
                    f"{file.path.name}: {file.bytes / 1e6:.1f} MB, {file.fallbacks} of {file.tensors} tensors in a larger type "
                    "than asked; loads and answers.",
                    soft_wrap=True,
                    markup=False,
                )
        run.finish({file.path.name: "" for file in files}, prompt=_PROMPT, files=table)
        return run


def ask_once(path: Path) -> str:
    """Load a file and ask it one prompt.

    Raises:
        ExpungeError: it does not load, or says nothing at all.
    """
    from expunge.deploy.llama_cpp import LlamaServer

    with LlamaServer(path, threads=1) as server:
        (answer,) = server.ask([_PROMPT], max_tokens=24)
    if answer.tokens < 1:
        raise ExpungeError("was loaded but gave no answer", where=path, remedy="make the file again")
    return answer.text
