"""The questions of an evaluation: read, placed before or after the cutoff, and held against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.audit.cutoff import Question, Side
from expunge.errors import ExpungeError
from expunge.examples import Example, read_examples
from expunge.sources.temporal_days import Day, aliases_of, cutoff_day, first_day, years_between


class Asked(NamedTuple):
    """A question as it is asked, and as it is judged."""

    example: Example
    question: Question


def read_questions(files: Sequence[Path], cutoff: str, limit: int | None) -> list[Asked]:
    """The questions of all files, in their order; the same question is asked once.

    Args:
        files: as `expunge prepare temporal` writes them: `metadata` holds `date`, `dataset_type`, `original_answer`
            and perhaps `aliases`.
        cutoff: the first day that is to be unknown.
        limit: only so many of each file.

    Raises:
        ExpungeError: a file cannot be read, a row has no question, or its date and side contradict each other or the cutoff.
    """
    day = cutoff_day(cutoff)
    found: dict[str, Asked] = {}
    for path in files:
        for example in read_examples(path)[:limit]:
            asked = Asked(example, _question(example, path, day))
            found.setdefault(asked.question.prompt, asked)
    return list(found.values())


def _question(example: Example, path: Path, cutoff: Day) -> Question:
    known: dict[str, Any] = example.metadata
    if example.prompt is None:
        raise ExpungeError("has no question to ask", where=example.where, remedy="give prompt and response")
    date = known.get("date")
    event = None if date is None else first_day(str(date))
    if date is not None and event is None:
        raise ExpungeError(f'"{date}" is not a date', where=example.where, remedy="write it as YYYY-MM-DD")
    given = known.get("dataset_type")
    if given not in ("retain", "unlearn", None):
        what = f'"{given}" is no side of a cutoff'
        raise ExpungeError(what, where=example.where, remedy='give "retain" or "unlearn" as dataset_type')
    if given is None and event is None:
        what = "says neither when it was nor on which side of the cutoff"
        raise ExpungeError(what, where=example.where, remedy='give "date" or "dataset_type" in its metadata')
    side: Side = given or ("retain" if event is not None and event < cutoff else "unlearn")
    if event is not None and (event < cutoff) != (side == "retain"):
        what = f"is of {event}, which is not on the {side} side of the cutoff {cutoff}"
        raise ExpungeError(what, where=example.where, remedy="give the --cutoff that the file was made with")
    expected = str(known.get("original_answer") or example.response)
    return Question(
        prompt=example.prompt,
        expected=expected,
        side=side,
        event=example.subject,
        years=None if event is None else years_between(cutoff, event),
        set=path.stem,
        aliases=aliases_of(known.get("aliases"), example.where),
        trained=known.get("trained") if isinstance(known.get("trained"), bool) else None,
        probe=str(known["probe"]) if known.get("probe") else None,
        where=example.where,
    )
