"""Writing and fingerprinting files: a reader sees the old content or the new, never half of either."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from expunge.errors import ExpungeError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


@contextmanager
def written_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it over `path` when the block ends well.

    Raises:
        ExpungeError: the place cannot be written or the disk is full; `path` is left as it was.
    """
    temporary: Path | None = None
    with reported_disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            temporary = Path(name)
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """Fill an empty directory beside `path` and rename it to `path` when the block ends well; replaces an old one.

    The directory has one fixed name, so that what a killed process left behind is removed by the next one: no two
    processes may write the same `path` (a run's lock sees to that).

    Raises:
        ExpungeError: the place cannot be written or the disk is full; `path` is left as it was.
    """
    scratch = path.with_name(f".{path.name}.partial")
    with reported_disk_errors(path):
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch
            shutil.rmtree(path, ignore_errors=True)
            scratch.replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with written_atomically(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


@contextmanager
def reported_disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses at or under `path` (full, read-only, forbidden) into a line the user can act on."""
    try:
        yield
    except ExpungeError:
        raise
    except OSError as error:
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        if error.errno in _FULL:
            raise disk_full(path) from None
        if error.errno in _FORBIDDEN:
            what = f"cannot write here ({os.strerror(error.errno)})"
            raise ExpungeError(what, where=path, remedy="choose another place") from None
        raise
    except Exception as error:
        # safetensors and torch raise errors of their own, which are no OSError, with the system's words inside.
        if is_disk_full(str(error)):
            raise disk_full(path) from None
        raise


def is_disk_full(words: str) -> bool:
    """Whether a message of native code or another process says that the disk took no more."""
    # llama.cpp's quantiser and torch's writer say no more than this of a write that failed.
    return any(sign in words for sign in (*map(os.strerror, _FULL), "iostream error", "PytorchStreamWriter failed writing"))


def disk_full(path: Path) -> ExpungeError:
    """The error every full disk is reported by."""
    return ExpungeError("the disk is full", where=path, remedy="free some space and run the command again")


def refuse_small_disk(needed: int, path: Path) -> None:
    """Refuse, before minutes of work, to write so many bytes where they do not fit.

    Raises:
        ExpungeError: fewer bytes are free.
    """
    if (free := free_bytes(path.absolute())) < needed:
        what = f"the disk is full ({needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free)"
        raise ExpungeError(what, where=path, remedy="free some space, or choose another place")


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds `path` or the nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-like value, in hexadecimal, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
