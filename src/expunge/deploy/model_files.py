"""GGUF files by name: what lies in a folder, as LM Studio would list it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from expunge.deploy.gguf_file import GgufHead, read_gguf
from expunge.errors import ExpungeError

PUBLISHER = "expunge"
"""Whose a file is where neither its folder nor its user says so."""

_LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PART = re.compile(r"-(\d{5})-of-\d{5}$")


class ModelFile(NamedTuple):
    """One file that can be served."""

    id: str
    """What it is called over the API."""
    path: Path
    publisher: str
    arch: str
    quantization: str
    longest_context: int
    """Tokens that it was trained to read at most."""
    bytes: int
    created: int
    """When it was last written, in seconds since 1970."""


def check_name(name: str, flag: str) -> str:
    """A name that becomes a part of a path: never another directory, an option, or a hidden file.

    Raises:
        ExpungeError: it holds anything but letters, digits, `.`, `_` and `-`, or begins or ends so that it could be misread.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or len(name) > _LONGEST_NAME:
        what = f'--{flag} "{name[:_LONGEST_NAME]}" cannot be part of a file name'
        raise ExpungeError(what, remedy=f"use letters, digits, . _ - (at most {_LONGEST_NAME}, no . or - in front)")
    return name


def describe_file(path: Path, *, name: str | None = None) -> ModelFile:
    """A file as it is listed; its publisher is found in a path such as `<publisher>/<name>-GGUF/<file>.gguf`.

    Raises:
        ExpungeError: it is no GGUF file, truncated, or of an unknown architecture.
    """
    head = read_gguf(path)
    return ModelFile(
        id=name or path.stem,
        path=path,
        publisher=_publisher(path, head),
        arch=head.architecture,
        quantization=head.quantization,
        longest_context=head.longest_context,
        bytes=head.bytes,
        created=int(path.stat().st_mtime),
    )


def find_files(place: Path) -> tuple[dict[str, ModelFile], list[ExpungeError]]:
    """All files that can be served, by their names, and what is wrong with the others.

    A file is called by its stem; where two share one, by their place in the folder. Later parts of a file that was split,
    and the image parts of models that see (`mmproj`), are no models of their own.

    Args:
        place: a file, or a folder that is searched with all folders in it.

    Raises:
        ExpungeError: the file is broken, or there is no file that could be served.
    """
    if not place.is_dir():
        only = describe_file(place)
        return {only.id: only}, []
    paths = [path for path in sorted(place.rglob("*.gguf")) if path.is_file() and not _hidden(path, place) and _is_whole(path)]
    stems = [path.stem for path in paths]
    found, broken = {}, []
    for path in paths:
        name = path.stem if stems.count(path.stem) == 1 else path.relative_to(place).with_suffix("").as_posix()
        try:
            found[name] = describe_file(path, name=name)
        except ExpungeError as error:
            broken.append(error)
    if not found:
        if broken:
            raise broken[0]
        raise ExpungeError("holds no GGUF file", where=place, remedy="make one: expunge gguf")
    return found, broken


def _hidden(path: Path, place: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(place).parts)


def _is_whole(path: Path) -> bool:
    part = _PART.search(path.stem)
    return not path.name.startswith("mmproj") and (part is None or int(part[1]) == 1)


def _publisher(path: Path, head: GgufHead) -> str:
    folder = path.absolute().parent
    if folder.name.lower().endswith("-gguf") and folder.parent.name:
        return folder.parent.name
    return str(head.metadata.get("general.organization") or PUBLISHER)
