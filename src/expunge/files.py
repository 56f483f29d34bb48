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
def written_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary directory beside `path` and rename it to `path` when the block ends well; replaces an old one.

    Raises:
        ExpungeError: the place cannot be written or the disk is full; `path` is left as it was.
    """
    scratch: Path | None = None
    with reported_disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            yield scratch
            scratch.chmod(0o777 & ~_umask())
            if path.exists():
                shutil.rmtree(path)
            scratch.rename(path)
        finally:
            if scratch is not None:
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
    except OSError as error:
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ExpungeError("the disk is full", where=path, remedy="free some space and run the command again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            what = f"cannot write here ({os.strerror(error.errno)})"
            raise ExpungeError(what, where=path, remedy="choose another place")
        raise


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
