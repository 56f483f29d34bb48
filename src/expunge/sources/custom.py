"""Your own data: any table, its columns named by flags.

What is forgotten is said by a condition on the columns, or drawn by subject; what is held out likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from expunge.errors import ExpungeError, suggestion
from expunge.examples import Example, Row
from expunge.sources import Material, source
from expunge.sources.split import Line, held_out, in_line, rows_of_subjects
from expunge.sources.tables import rows_of
from expunge.sources.where import Condition, condition

_STANDARD = ("prompt", "response", "text", "subject")


@dataclass(frozen=True, kw_only=True)
class Custom:
    """Split a table of your own (JSON lines, CSV, Parquet or a Hub id) by a condition or by subject."""

    input: str
    """The file, a directory of files, or a Hub id."""
    config: str | None = None
    """Which table of a Hub id or directory, where it has several."""
    split: str = "train"
    """Which split of a Hub id or directory."""
    prompt_column: str | None = None
    """Column of the question; `prompt`, `question` or `instruction` when not given."""
    response_column: str | None = None
    """Column of the answer; `response`, `answer` or `output` when not given."""
    text_column: str | None = None
    """Column of plain text, in place of question and answer; `text` when not given and there is no question."""
    subject_column: str | None = None
    """Column of who or what a row is about, by which it is split; `subject` when not given."""
    forget_where: str | None = None
    """Condition on the columns for what is forgotten, such as "subject == 'Jane Roe'"; without it, --forget-ratios decide."""
    holdout_where: str | None = None
    """Condition for what is never trained on; without it, subjects are drawn."""
    holdout_ratio: float = 0.25
    """Share of the subjects that are neither forgotten nor retained, of all that no condition names."""


class _Columns:
    """Which column is which, and every row as an example."""

    def __init__(self, config: Custom, row: Row) -> None:
        self._names = list(row.value)
        self._row = row
        self.subject = self._find("subject_column", config.subject_column, ("subject",))
        self.text: str | None = None
        if config.text_column is None and (config.prompt_column or not self._has_only_text()):
            self.prompt = self._find("prompt_column", config.prompt_column, ("prompt", "question", "instruction"))
            self.response = self._find("response_column", config.response_column, ("response", "answer", "output"))
        else:
            if config.prompt_column or config.response_column:
                what = "--text-column stands in place of --prompt-column and --response-column"
                raise ExpungeError(what, remedy="give one or the other")
            self.text = self._find("text_column", config.text_column, ("text",))

    def example(self, row: Row) -> Example:
        used = {self.subject, self.text} if self.text else {self.subject, self.prompt, self.response}
        metadata = {name: value for name, value in row.value.items() if name not in used and value is not None}
        return Example(
            prompt=None if self.text else row.text(self.prompt),
            response=row.text(self.text or self.response),
            subject=_words(row, self.subject),
            metadata=metadata,
            where=f"{row.path}:{row.line}",
        )

    def seen(self, row: Row) -> dict[str, Any]:
        """What a condition may name: the columns, and the standard words for those that are mapped."""
        mapped = {"subject": self.subject, "text": self.text}
        if not self.text:
            mapped = {"subject": self.subject, "prompt": self.prompt, "response": self.response}
        return {word: row.value[column] for word, column in mapped.items() if column} | row.value

    def _has_only_text(self) -> bool:
        return "text" in self._names and not {"prompt", "question", "instruction"} & set(self._names)

    def _find(self, flag: str, given: str | None, usual: tuple[str, ...]) -> str:
        if given is not None:
            if given in self._names:
                return given
            raise self._row.error(f'there is no column "{given}"', suggestion(given, self._names))
        for name in usual:
            if name in self._names:
                return name
        what = f"there is no column {' or '.join(usual)}"
        raise self._row.error(what, f"name one of {', '.join(self._names)} with --{flag.replace('_', '-')}")


@source("custom", Custom, example="-i notes.csv -o data --subject-column patient --forget-where \"subject == 'Jane Roe'\"")
def make(config: Custom, *, sample: int | None, seed: int) -> Material:
    """The subjects of the table, those that a condition names at the front, and the holdout.

    Args:
        config: the table and what is forgotten of it.
        sample: only the first so many rows.
        seed: of the draw by subject.

    Raises:
        ExpungeError: the table or a condition cannot be read, a column is not there, or a set would be empty.
    """
    found = _read(config, sample)
    forget = [example for example, forgotten, _ in found if forgotten]
    holdout = [example for example, forgotten, out in found if out and not forgotten]
    rest = [example for example, forgotten, out in found if not forgotten and not out]
    for name, where, chosen in (("forget", config.forget_where, forget), ("holdout", config.holdout_where, holdout)):
        if where is not None and not chosen:
            remedy = f"check --{name}-where: {len(found):,} rows were looked at"
            raise ExpungeError(f"no row fits {where}", where=config.input, remedy=remedy)
    front = in_line(forget, seed)
    trained, out = held_out(in_line(rest, seed), None if config.holdout_where else config.holdout_ratio)
    line = Line([*front, *trained], len(front) if config.forget_where is not None else None)
    return Material(line, {"holdout": holdout or rows_of_subjects(out)})


def _read(config: Custom, sample: int | None) -> list[tuple[Example, bool, bool]]:
    found: list[tuple[Example, bool, bool]] = []
    columns: _Columns | None = None
    forget: Condition | None = None
    holdout: Condition | None = None
    for row in rows_of(config.input, config.config, config.split):
        if columns is None:
            columns = _Columns(config, row)
            names = columns.seen(row).keys()
            forget = condition(config.forget_where, names) if config.forget_where is not None else None
            holdout = condition(config.holdout_where, names) if config.holdout_where is not None else None
        seen = columns.seen(row)
        found.append((columns.example(row), bool(forget and forget(seen)), bool(holdout and holdout(seen))))
        if len(found) == sample:
            break
    return found


def _words(row: Row, column: str) -> str:
    """A subject may be a number, such as a patient's."""
    value = row.value.get(column)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text(column)
