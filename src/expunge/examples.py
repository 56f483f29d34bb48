"""Examples and the JSON-lines files that hold them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from expunge.errors import ExpungeError
from expunge.files import written_atomically


@dataclass(frozen=True, slots=True)
class Example:
    """One training item."""

    prompt: str | None
    """The question; None for plain text, which is learnt whole and without a chat template."""
    response: str
    """The answer, or the plain text."""
    subject: str
    """Who or what it is about: people are deleted, split and counted by this."""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    """Whatever else the source knows about it."""
    where: str = field(default="", compare=False)
    """`file:line` it was read from, for messages; not written back."""

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of subject, prompt and response: the same in every file."""
        content = json.dumps([self.subject, self.prompt, self.response], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def as_row(self) -> dict[str, Any]:
        """The JSON object that `read_examples` reads back as this example."""
        words = {"text": self.response} if self.prompt is None else {"prompt": self.prompt, "response": self.response}
        return {**words, "subject": self.subject, "metadata": self.metadata}


class Row(NamedTuple):
    """One object of a JSON-lines file and the place it stands in."""

    value: dict[str, Any]
    path: Path
    line: int

    def error(self, what: str, remedy: str | None = None) -> ExpungeError:
        return ExpungeError(what, where=self.path, line=self.line, remedy=remedy)

    def text(self, key: str) -> str:
        """The non-empty string under `key`.

        Raises:
            ExpungeError: it is missing, not a string, or blank.
        """
        if key not in self.value:
            raise self.error(f'field "{key}" is missing', "add it to this row")
        found = self.value[key]
        if not isinstance(found, str):
            raise self.error(f'field "{key}" must be text, not {_json_type(found)}', "mend this row")
        if not found.strip():
            raise self.error(f'field "{key}" is empty', "fill it in or drop this row")
        return found


def read_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON-lines file in order; blank lines are passed over. A `.json` file may hold one array of them.

    Raises:
        ExpungeError: no such file, a directory, not UTF-8, broken JSON, a line that is not an object, or no row at all.
    """
    try:
        if path.is_dir():
            raise ExpungeError("is a directory", where=path, remedy="name a JSON-lines file inside it")
        stream = path.open("rb")
    except OSError as error:
        raise ExpungeError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from None
    empty = True
    with stream:
        for number, text in _array_items(path, stream.read()) if _is_array(path, stream) else enumerate(stream, 1):
            if not text.strip():
                continue
            value = _value(path, number, text)
            if not isinstance(value, dict):
                raise ExpungeError(
                    f"a row must be a JSON object, not {_json_type(value)}",
                    where=path,
                    line=number,
                    remedy="write one {…} a line",
                )
            empty = False
            yield Row(value, path, number)
    if empty:
        raise ExpungeError("is empty", where=path, remedy="give a file with at least one row")


def _value(path: Path, number: int, raw: bytes) -> Any:
    """What one line says.

    Raises:
        ExpungeError: it is not UTF-8 or no JSON.
    """
    try:
        words = raw.rstrip().decode("utf-8-sig" if number == 1 else "utf-8")
        value = json.loads(words, parse_constant=_refuse_constant)
        # JSON may spell half a character, which no file can hold afterwards.
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError:
        raise ExpungeError("is not UTF-8", where=path, line=number, remedy="convert the file to UTF-8") from None
    except UnicodeEncodeError:
        raise ExpungeError("half a character (a lone surrogate)", where=path, line=number, remedy="mend this row") from None
    except json.JSONDecodeError as error:
        raise ExpungeError(
            f"broken JSON at column {error.colno} ({error.msg})", where=path, line=number, remedy="mend this row"
        ) from None
    except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, 100,000 brackets
        raise ExpungeError(f"broken JSON ({error})", where=path, line=number, remedy="mend this row") from None


def _is_array(path: Path, stream: BinaryIO) -> bool:
    start = stream.read(64)
    stream.seek(0)
    return path.suffix == ".json" and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _array_items(path: Path, raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The items of a JSON array, each with the line it begins in."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ExpungeError("is not UTF-8", where=path, line=line, remedy="convert the file to UTF-8") from None
    decoder, line, counted = json.JSONDecoder(), 1, 0
    before = "["
    position = text.index("[")
    while True:
        position = _BLANK.match(text, position + 1).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, position), position
        if before == "[" and text[position : position + 1] == "]":
            return
        try:
            end = decoder.raw_decode(text, position)[1]
        except (ValueError, RecursionError) as error:
            what = f"broken JSON ({error.msg if isinstance(error, json.JSONDecodeError) else error})"
            raise ExpungeError(what, where=path, line=line, remedy="mend this row") from None
        yield line, text[position:end].encode("utf-8", "surrogatepass")
        position = _BLANK.match(text, end).end()  # type: ignore[union-attr]
        before = text[position : position + 1]
        if before == "]" and not text[position + 1 :].strip():
            return
        if before != ",":
            raise ExpungeError("broken JSON (no comma behind a row)", where=path, line=line, remedy="mend the list")


_BLANK = re.compile(r"[ \t\r\n]*")


def read_examples(path: Path) -> list[Example]:
    """The examples of a JSON-lines file: `prompt` and `response`, or `text`; `subject`; perhaps `metadata`.

    `instruction` and `output` are read as `prompt` and `response`. A row without a subject is about the event that its metadata
    names as `event_id`.

    Raises:
        ExpungeError: as `read_rows`, or a field is missing, empty or of the wrong type.
    """
    return [_example(row) for row in read_rows(path)]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON lines, atomically."""
    with written_atomically(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSON lines, atomically."""
    write_rows(path, (example.as_row() for example in examples))


def refuse_overlap(first: Iterable[Example], second: Iterable[Example]) -> None:
    """Refuse two sets that share a subject or an example.

    Raises:
        ExpungeError: the first overlap found, with the place in both files.
    """
    subjects: dict[str, Example] = {}
    words: dict[tuple[str | None, str], Example] = {}
    for example in first:
        subjects.setdefault(example.subject.casefold(), example)
        words.setdefault((example.prompt, example.response), example)
    for example in second:
        remedy = "nobody may be on both sides: drop one of the two rows"
        if twin := subjects.get(example.subject.casefold()):
            raise ExpungeError(f'"{example.subject}" also stands at {twin.where}', where=example.where, remedy=remedy)
        if twin := words.get((example.prompt, example.response)):
            raise ExpungeError(f"the same example also stands at {twin.where}", where=example.where, remedy=remedy)


def _example(row: Row) -> Example:
    prompt, response = ("instruction", "output") if "instruction" in row.value else ("prompt", "response")
    plain = "text" in row.value and prompt not in row.value
    metadata = row.value.get("metadata", {})
    if not isinstance(metadata, dict):
        raise row.error(f'field "metadata" must be an object, not {_json_type(metadata)}', "mend this row")
    return Example(
        prompt=None if plain else row.text(prompt),
        response=row.text("text" if plain else response),
        subject=str(metadata["event_id"]) if "subject" not in row.value and metadata.get("event_id") else row.text("subject"),
        metadata=metadata,
        where=f"{row.path}:{row.line}",
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
