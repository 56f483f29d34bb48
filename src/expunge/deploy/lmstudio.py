"""LM Studio's models folder and its command `lms`: put a file where it is found, list what is there, load it.

`<models>/<publisher>/<name>-GGUF/<file>.gguf`. Where LM Studio lives, which folder it was told to use and what `lms` takes is
as its own command line (github.com/lmstudio-ai/lms) has it. `lms` is used where it is there; without it the file is put in
place all the same, which LM Studio notices by itself.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from expunge.deploy.gguf_file import read_gguf
from expunge.deploy.model_files import PUBLISHER, ModelFile, check_name, find_files
from expunge.errors import ExpungeError
from expunge.files import refuse_small_disk, reported_disk_errors, sha256

URL = "http://localhost:1234/v1"
"""Where LM Studio's server listens unless it was told otherwise."""

_SECONDS = 900.0
"""Loading a large model from a slow disk takes minutes."""


class Installed(NamedTuple):
    """One file in LM Studio's folder."""

    path: Path
    how: str
    """`lms`, `hard link`, `copy`, or `there already`."""
    name: str
    """Its path below the models folder: what `lms load` takes."""


def models_folder(given: Path | None = None) -> Path:
    """The folder that LM Studio looks for models in: the one given, else the one it was set to, else its default."""
    if given is not None:
        return given
    home = _home()
    try:
        told = json.loads((home / "settings.json").read_text("utf-8"))["downloadsFolder"]
    except (OSError, ValueError, KeyError, TypeError):
        told = None
    return Path(told) if isinstance(told, str) and told else home / "models"


def lms() -> str | None:
    """LM Studio's command line, None where it is not installed."""
    if found := shutil.which("lms"):
        return found
    own = _home() / "bin" / ("lms.exe" if os.name == "nt" else "lms")
    return str(own) if own.is_file() and os.access(own, os.X_OK) else None


def install(
    file: Path, *, publisher: str = PUBLISHER, name: str, folder: Path | None = None, overwrite: bool = False
) -> Installed:
    """Put a file into LM Studio's models folder, by hard link where that is possible: whole, or not at all.

    Args:
        file: a GGUF file, which is checked first.
        publisher: whose model it is.
        name: what the model is called; `-GGUF` is added.
        folder: another models folder than LM Studio's own; `lms`, which knows only its own, is then not asked.
        overwrite: whether another file of that name may be replaced.

    Raises:
        ExpungeError: a broken file, a bad name, another file in its place, no room, or `lms` refuses.
    """
    check_name(publisher, "publisher")
    check_name(name, "model_name")
    check_name(file.stem, "file")
    size = read_gguf(file).bytes
    repo = name if name.lower().endswith("-gguf") else f"{name}-GGUF"
    models = models_folder(folder)
    place = models / publisher / repo / f"{file.stem}.gguf"
    shown = place.relative_to(models).as_posix()
    with reported_disk_errors(place):
        if place.exists():
            if place.samefile(file) or (place.stat().st_size == size and sha256(place) == sha256(file)):
                return Installed(place, "there already", shown)
            if not overwrite:
                raise ExpungeError("another file is there already", where=place, remedy="pass --overwrite, or another name")
        # `lms` would link to a link, not to the file, and takes no other ending and no file that is there.
        plain = file.suffix == ".gguf" and not file.is_symlink() and not place.exists()
        command = lms() if folder is None and plain else None
        if command is not None:
            return _by_lms(command, file, f"{publisher}/{repo}", place, shown)
        return Installed(place, _put(file, place, size), shown)


def installed(folder: Path | None = None) -> list[ModelFile]:
    """What lies in LM Studio's models folder, by path; broken files are left out.

    Raises:
        ExpungeError: there is no such folder.
    """
    models = models_folder(folder)
    if not models.is_dir():
        remedy = "start LM Studio once, or pass --lmstudio_models"
        raise ExpungeError("LM Studio's models folder is not there", where=models, remedy=remedy)
    try:
        files, _ = find_files(models)
    except ExpungeError:
        return []
    return [file._replace(id=file.path.relative_to(models).as_posix()) for file in files.values()]


def loaded() -> list[str]:
    """What LM Studio says it has loaded, by the paths of the files; nothing where it cannot be asked."""
    command = lms()
    if command is None:
        return []
    try:
        listed: Any = json.loads(_run([command, "ps", "--json"]))
        return [str(model["path"]) for model in listed]
    except (ExpungeError, ValueError, KeyError, TypeError):
        return []


def load(name: str, *, identifier: str | None = None, context: int | None = None) -> str:
    """Load an installed model in LM Studio.

    Args:
        name: its path below the models folder, or a part of it.
        identifier: what it is to be called over the API.
        context: tokens of its context.

    Returns:
        What `lms` says.

    Raises:
        ExpungeError: there is no `lms` (the message says what to do by hand), or it refuses.
    """
    command = lms()
    if command is None:
        raise ExpungeError("LM Studio's command `lms` is not here", remedy=_by_hand(name))
    if name.startswith("-"):
        raise ExpungeError(f'"{name}" is no model', remedy="see `expunge lmstudio list`")
    more = [] if identifier is None else ["--identifier", identifier]
    more += [] if context is None else ["--context-length", str(context)]
    return _run([command, "load", name, "-y", *more])


def next_steps(found: Installed) -> list[str]:
    """What is left to do, word for word, after a file was installed."""
    if lms() is not None:
        return [f"lms load {found.name} -y", "lms server start", f"ask it at {URL}"]
    return [_by_hand(found.name), f"ask it at {URL}", f"without LM Studio: expunge serve {found.path}"]


def _by_hand(name: str) -> str:
    return (
        f"start LM Studio, open Developer, choose {name} under Select a model to load, and switch the server on; to have "
        f"`lms`, run {_home() / 'bin' / 'lms'} bootstrap once after that"
    )


def _by_lms(command: str, file: Path, repo: str, place: Path, shown: str) -> Installed:
    # Without one of the two it would move the file away.
    refused = None
    for how in ("--hard-link", "--copy"):
        try:
            _run([command, "import", str(file.absolute()), "--user-repo", repo, how, "-y"])
        except ExpungeError as error:
            refused = error
            continue
        if not place.is_file():
            what = "lms says that it has imported the file, but it is not there"
            raise ExpungeError(what, where=place, remedy="pass --lmstudio_models with LM Studio's models folder")
        return Installed(place, "lms", shown)
    assert refused is not None
    raise refused


def _put(file: Path, place: Path, size: int) -> str:
    """Hard link or copy, through a name beside the place that nobody takes for a model."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.partial")
    scratch.unlink(missing_ok=True)
    try:
        try:
            os.link(file.resolve(), scratch)
            how = "hard link"
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            refuse_small_disk(size, place)
            shutil.copyfile(file, scratch)
            how = "copy"
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)
    return how


def _run(command: list[str]) -> str:
    """What `lms` prints.

    Raises:
        ExpungeError: it fails, with its last words; or it does not end.
    """
    words = " ".join(command[1:3])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ExpungeError(f"`lms {words}` did not end within {_SECONDS:.0f} s", remedy="see what LM Studio shows") from None
    except OSError as error:
        raise ExpungeError(f"cannot be run ({error.strerror})", where=command[0], remedy="install LM Studio again") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = lines[-1][:300] if lines else f"code {done.returncode}"
        raise ExpungeError(f"`lms {words}` failed ({last})", remedy="start LM Studio, and run `lms ls`")
    return done.stdout.strip()


def _home() -> Path:
    """Where LM Studio keeps its things: a pointer file says so, else the old place if it is there, else the new one."""
    user = Path.home()
    try:
        if told := (user / ".lmstudio-home-pointer").read_text("utf-8").strip():
            return Path(told)
    except (OSError, ValueError):
        pass
    old = user / ".cache" / "lm-studio"
    return old if old.is_dir() else user / ".lmstudio"
