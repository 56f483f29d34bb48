"""Rows of any table: JSON lines, a JSON array, CSV or Parquet on the disk, or a data set of the Hugging Face Hub.

A directory, and a data set of the Hub, holds several tables, each known by its configuration and split: `forget10` of
`locuslab/TOFU`, or `forget10.json` in a directory.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError
from expunge.examples import Row, read_rows
from expunge.files import fingerprint, sha256

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_LONGEST_CELL = 1 << 27
_SECONDS = 20


def read_table(path: Path) -> Iterator[Row]:
    """The rows of one file, read as its ending says. A row's line is its number where a format has no lines.

    Raises:
        ExpungeError: the file cannot be read, is broken, of no known format, or has no row.
    """
    readers = {".jsonl": read_rows, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        remedy = f"give a file that ends in {', '.join(SUFFIXES)}"
        raise ExpungeError("is of no known format", where=path, remedy=remedy)
    try:
        found = iter(readers[path.suffix.lower()](path))
        first = next(found, None)
    except OSError as error:
        raise ExpungeError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from None
    if first is None:
        raise ExpungeError("is empty", where=path, remedy="give a file with at least one row")
    yield first
    yield from found


def rows_of(place: str, config: str | None = None, split: str = "train") -> Iterator[Row]:
    """The rows of one table of a place: a file, a directory of files, or a Hub id.

    In a directory the table is `<config>.*`, `<config>/<split>.*`, or `<split>.*` where there is no configuration.

    Raises:
        ExpungeError: there is no such place or table, or it cannot be read.
    """
    if is_on_hub(place):
        return _hub(place, config, split)
    path = Path(place)
    if not path.is_dir():
        return read_table(path)
    if (found := table_in(path, config, split)) is None:
        what = f"has no table {config or split} ({'|'.join(suffix[1:] for suffix in SUFFIXES)})"
        raise ExpungeError(what, where=path, remedy="check the directory, or give a Hub id")
    return read_table(found)


def table_in(directory: Path, config: str | None, split: str) -> Path | None:
    """The file of a directory that holds a table, or None."""
    stems = [directory / split] if config is None else [directory / config, directory / config / split]
    files = (stem.with_name(stem.name + suffix) for stem in stems for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def is_on_hub(place: str) -> bool:
    """Whether a name stands for a data set of the Hub: `owner/name`, and nothing on the disk is called so."""
    return bool(_HUB_ID.fullmatch(place)) and not Path(place).exists() and Path(place).suffix.lower() not in SUFFIXES


def fingerprint_of(place: str) -> str:
    """SHA-256 of a file or of all tables in a directory, or the commit that a Hub id now stands for.

    Raises:
        ExpungeError: there is no such place, or the Hub cannot be reached.
    """
    path = Path(place)
    if is_on_hub(place):
        return f"{place}@{_commit(place)}"
    if path.is_dir():
        tables = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
        if not tables:
            raise ExpungeError(f"holds no table ({', '.join(SUFFIXES)})", where=path, remedy="check the directory")
        return fingerprint({str(file.relative_to(path)): sha256(file) for file in tables})
    try:
        return sha256(path)
    except OSError as error:
        remedy = "check the path, or give a Hub id such as owner/name"
        raise ExpungeError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from None


def _json(path: Path) -> Iterator[Row]:
    """A JSON array of objects; or JSON lines, which are often given this ending."""
    with path.open("rb") as stream:
        if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from read_rows(path)
            return
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise ExpungeError("is not UTF-8", where=path, remedy="convert the file to UTF-8") from None
    except ValueError as error:
        raise ExpungeError(f"broken JSON ({error})", where=path, remedy="mend the file") from None
    for number, value in enumerate(found, 1):
        if not isinstance(value, dict):
            raise ExpungeError(f"item {number} is no JSON object", where=path, remedy="write a list of {…}")
        yield Row(value, path, number)


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            for value in reader:
                row = Row(value, path, reader.line_num)
                if None in value:
                    raise row.error("has more cells than the header", "quote the cells that hold a comma")
                if None in value.values():
                    raise row.error("has fewer cells than the header", "mend this row")
                yield row
        except UnicodeDecodeError:
            raise ExpungeError("is not UTF-8", where=path, remedy="convert the file to UTF-8") from None
        except csv.Error as error:
            raise ExpungeError(f"broken CSV ({error})", where=path, line=reader.line_num + 1, remedy="mend it") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _numbered((value for batch in file.iter_batches(1024) for value in batch.to_pylist()), path)
    except pyarrow.ArrowException as error:
        words = str(error).splitlines()[0]
        raise ExpungeError(f"is no sound Parquet file ({words})", where=path, remedy="write it again") from None


def _hub(name: str, config: str | None, split: str) -> Iterator[Row]:
    """One split of a data set, streamed: nothing is read beyond what is asked for."""
    commit = _commit(name)

    from datasets import load_dataset

    place = Path(name, *([config] if config else []), split)
    try:
        yield from _numbered(load_dataset(name, config, split=split, revision=commit, streaming=True), place)
    except ExpungeError:
        raise
    except Exception as error:
        # Whatever the library, the network and the file system below it raise has words for the user in its first line.
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"cannot be read from the Hub ({words})"
        raise ExpungeError(what, where=place, remedy="check configuration and split, or give a local copy") from error


def _commit(name: str) -> str:
    """The commit a data set stands for: asked first, so that without a network it is said at once."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(name, timeout=_SECONDS).sha
    except Exception as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f'data set "{name}" is neither on disk nor reachable on the Hub ({words})'
        raise ExpungeError(what, remedy="check the name and the network, or give a local copy") from None
    return str(found)


def _numbered(values: Iterable[dict[str, Any]], place: Path) -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        yield Row({name: _plain(item) for name, item in value.items()}, place, number)


def _plain(value: Any) -> Any:
    """What JSON can hold: dates become ISO text, other things their words."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
