"""LM Studio: put a GGUF file where LM Studio finds it, list what is there, load it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import at_least


@dataclass(frozen=True, kw_only=True)
class InstallConfig:
    """Put a GGUF file into LM Studio's models folder: `<models>/<publisher>/<name>-GGUF/<file>.gguf`."""

    publisher: str = "expunge"
    """Whose model it is."""
    model_name: str | None = None
    """What it is called; by default as its file, less the type."""
    lmstudio_models: Path | None = None
    """Another models folder than the one LM Studio is set to."""
    overwrite: bool = False
    """Replace another file of this name that is there already."""


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """List what is in LM Studio's models folder."""

    lmstudio_models: Path | None = None
    """Another models folder than the one LM Studio is set to."""


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Load an installed model in LM Studio."""

    identifier: str | None = None
    """What it is to be called over the API; LM Studio's own name for it by default."""
    context: int | None = None
    """Tokens of its context; LM Studio's choice by default."""


def install(file: Path, config: InstallConfig) -> dict[str, Any]:
    """Put it there by hard link or copy, through `lms` if that is here; says where it lies and what is left to do.

    Raises:
        ExpungeError: a broken file, a bad name, another file in its place, or no room.
    """
    from expunge.deploy import lmstudio
    from expunge.deploy.gguf import QUANT_TYPES

    stem = file.stem
    for kind in QUANT_TYPES:
        stem = stem[: -len(kind) - 1] if stem.lower().endswith((f"-{kind}", f".{kind}")) else stem
    found = lmstudio.install(
        file,
        publisher=config.publisher,
        name=stem if config.model_name is None else config.model_name,
        folder=config.lmstudio_models,
        overwrite=config.overwrite,
    )
    return {"path": str(found.path), "how": found.how, "name": found.name, "next": lmstudio.next_steps(found)}


def list_installed(config: ListConfig) -> list[dict[str, Any]]:
    """What lies in the folder, and what LM Studio has loaded of it.

    Raises:
        ExpungeError: there is no such folder.
    """
    from expunge.deploy import lmstudio

    files = lmstudio.installed(config.lmstudio_models)
    loaded = set(lmstudio.loaded())
    return [
        {
            "name": file.id,
            "architecture": file.arch,
            "type": file.quantization,
            "MB": round(file.bytes / 1e6, 1),
            "longest context": file.longest_context,
            "loaded": "yes" if file.id in loaded else "",
        }
        for file in files
    ]


def load(name: str, config: LoadConfig) -> dict[str, Any]:
    """Load it through `lms`.

    Raises:
        ExpungeError: there is no `lms` (the message says what to do by hand), or it refuses.
    """
    from expunge.deploy import lmstudio

    at_least(1, context=config.context)
    said = lmstudio.load(name, identifier=config.identifier, context=config.context)
    return {"loaded": config.identifier or name, "lms says": said, "ask it at": lmstudio.URL}
