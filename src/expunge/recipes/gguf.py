"""GGUF: write a model as files that llama.cpp and LM Studio load, and ask every file before claiming that it works."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ExpungeError, at_least
from expunge.files import sha256, write_json
from expunge.processes import cores
from expunge.progress import console
from expunge.runs import Run, settings_of

if TYPE_CHECKING:
    from expunge.deploy.gguf import GgufFile

LOG = "llama.cpp.log"
"""What llama.cpp's tools say, inside the run."""

COMPARISON = "comparison.json"
"""How the f16 file compares with the model, inside the run: the file itself may not be kept."""


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
    verify: bool = True
    """Compare the f16 file's logits and tokens with the model's before anything is made of it; loads the model in float32."""
    perplexity: bool = True
    """Measure each file's perplexity on ordinary text."""
    perplexity_file: Path | None = None
    """Text to measure it on, JSON lines with `text`, instead of the 24 paragraphs that come along."""
    install_lmstudio: bool = False
    """Put the files into LM Studio's models folder, in the place of earlier ones of these names."""
    lmstudio_models: Path | None = None
    """Another models folder than the one LM Studio is set to."""
    publisher: str = "expunge"
    """Whose model it is in LM Studio's folder."""
    threads: int | None = None
    """Processor threads for quantising; every core by default. The files do not depend on it."""


def gguf(config: GgufConfig) -> Run:
    """Write one file for each type; each is loaded in llama.cpp and has answered a prompt when this returns.

    Raises:
        ExpungeError: no model directory, truncated weights, an unknown architecture, a missing package, a full disk, a file
            that does not load, or one that says something else than the model.
    """
    from expunge.deploy.agreement import QUESTION
    from expunge.deploy.gguf import check_model_directory, check_types, find_converter, find_quantiser, make_gguf
    from expunge.deploy.model_files import check_name
    from expunge.deploy.parts import SERVER, require
    from expunge.models import model_fingerprint

    types = check_types(config.quant_type)
    check_name(config.model_name, "model_name")
    check_name(config.publisher, "publisher")
    at_least(1, threads=config.threads)
    check_model_directory(config.model_path)
    texts = _texts(config)
    # Whatever is missing is said before the work, not after half of it.
    require(SERVER)
    find_converter(config.llama_cpp_path)
    find_quantiser(config.llama_cpp_path)

    outside = ("model_path", "output_path", "threads", "install_lmstudio", "lmstudio_models", "publisher", "perplexity_file")
    settings = settings_of(config, without=outside) | {"quant_type": types}
    inputs = {"model_path": model_fingerprint(config.model_path)}
    if config.perplexity_file is not None:
        inputs["perplexity_file"] = sha256(config.perplexity_file)
    with Run.open(config.output_path, "gguf", settings, inputs) as run:
        if not run.finished:
            threads = config.threads or cores()
            with run.timed("convert and quantise"):
                files = make_gguf(
                    config.model_path,
                    run.path,
                    types,
                    name=config.model_name,
                    llama_cpp=config.llama_cpp_path,
                    threads=threads,
                    log=run.path / LOG,
                    proof=(lambda f16: _prove(f16, config.model_path, run.path / COMPARISON)) if config.verify else None,
                )
            with run.timed("ask"):
                table = {file.type: _tried(file, texts) for file in files}
            found = json.loads((run.path / COMPARISON).read_text("utf-8")) if config.verify else None
            run.finish({file.path.name: "" for file in files}, prompt=QUESTION, files=table, comparison=found)
        if config.install_lmstudio:
            _install(config, [run.path / str(row["path"]) for row in run.results["files"].values()])
        return run


def _texts(config: GgufConfig) -> list[str]:
    """What perplexity is measured on; nothing where it is not wanted."""
    from expunge.examples import read_examples
    from expunge.sources.ordinary import ordinary_evaluation

    if not config.perplexity:
        return []
    given = config.perplexity_file
    return [example.response for example in (ordinary_evaluation() if given is None else read_examples(given))]


def _prove(f16: Path, model: Path, place: Path) -> None:
    """Hold the f16 file against the model; what was found is kept, as the file may not be."""
    from expunge.deploy.gguf_score import compare

    found = compare(f16, model)
    write_json(place, found._asdict())
    console.print(
        f"f16 beside the model: logits within {found.max_difference:.2g}, the same next token at "
        f"{found.argmax_agreement:.0%} of positions.",
        soft_wrap=True,
        markup=False,
    )
    if found.same_tokens < 1:
        console.print(
            f"! llama.cpp splits {1 - found.same_tokens:.0%} of the texts compared into other tokens than transformers: "
            "what was trained may not be what is asked.",
            soft_wrap=True,
            markup=False,
        )


def _tried(file: GgufFile, texts: list[str]) -> dict[str, Any]:
    """One file as a row of the table: it has loaded and answered."""
    from expunge.deploy.gguf_score import perplexity

    answer = ask_once(file.path)
    row = file._asdict() | {"path": file.path.name, "answer": answer}
    words = (
        f"{file.path.name}: {file.bytes / 1e6:.1f} MB, {file.fallbacks} of {file.tensors} tensors in a larger type than asked"
    )
    if texts:
        row["perplexity"] = round(perplexity(file.path, texts), 4)
        words += f", perplexity {row['perplexity']:.2f}"
    console.print(f"{words}; loads and answers.", soft_wrap=True, markup=False)
    return row


def _install(config: GgufConfig, files: list[Path]) -> None:
    from expunge.deploy import lmstudio

    for file in files:
        found = lmstudio.install(
            file, publisher=config.publisher, name=config.model_name, folder=config.lmstudio_models, overwrite=True
        )
        console.print(f"LM Studio: {found.path} ({found.how})", soft_wrap=True, markup=False)
    for step in lmstudio.next_steps(found):
        console.print(f"  then: {step}", soft_wrap=True, markup=False)


def ask_once(path: Path) -> str:
    """Load a file and ask it one prompt.

    Raises:
        ExpungeError: it does not load, or says nothing at all.
    """
    from expunge.deploy.agreement import ANSWER_TOKENS, QUESTION
    from expunge.deploy.llama_cpp import LlamaServer

    with LlamaServer(path, threads=1) as server:
        (answer,) = server.ask([QUESTION], max_tokens=ANSWER_TOKENS)
    if answer.tokens < 1:
        raise ExpungeError("was loaded but gave no answer", where=path, remedy="make the file again")
    return answer.text
