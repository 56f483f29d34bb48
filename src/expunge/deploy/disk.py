"""Directories written atomically (a reader sees the whole new one, or what was there before), and disks that are full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.files import reported_disk_errors
from expunge.runs import free_bytes


@contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """Fill an empty directory beside `path` and rename it to `path` when the block ends well.

    The directory has one fixed name, so that what a killed process left behind is removed by the next one: no two
    processes may write the same `path` (a run's lock sees to that).

    Raises:
        ExpungeError: the place cannot be written or the disk is full; `path` is left as it was.
    """
    scratch = _partial_name(path)
    with reported_disk_errors(path), _disk_errors_of_native_code(path):
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch
            shutil.rmtree(path, ignore_errors=True)
            scratch.replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _partial_name(path: Path) -> Path:
    """Where the unfinished content of `path` lies while it is written."""
    return path.with_name(f".{path.name}.partial")


def is_disk_full(words: str) -> bool:
    """Whether a message of native code or another process says that the disk took no more."""
    signs = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    # llama.cpp's quantiser says no more than this of a write that failed.
    return any(sign in words for sign in (*signs, "iostream error"))


def disk_full(path: Path) -> ExpungeError:
    """The same words as for files."""
    return ExpungeError("the disk is full", where=path, remedy="free some space and run the command again")


def refuse_small_disk(needed: int, path: Path) -> None:
    """Refuse, before minutes of work, to write so many bytes where they do not fit.

    Raises:
        ExpungeError: fewer bytes are free.
    """
    if (free := free_bytes(path.absolute())) < needed:
        what = f"the disk is full ({needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free)"
        raise ExpungeError(what, where=path, remedy="free some space, or choose another place")


@contextmanager
def _disk_errors_of_native_code(path: Path) -> Iterator[None]:
    """safetensors and torch raise errors of their own, which are no OSError, with the system's words inside."""
    try:
        yield
    except (ExpungeError, OSError):
        raise
    except Exception as error:
        if is_disk_full(str(error)):
            raise disk_full(path) from None
        raise
