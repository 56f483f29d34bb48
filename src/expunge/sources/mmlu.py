"""MMLU: multiple-choice questions on 57 subjects, to see what a model still knows (Hendrycks et al. 2021, arXiv 2009.03300).

For evaluation: `test` is asked, `dev` gives the five examples of a prompt. The forget ratios draw whole
subjects of `test`: of some, to ask what is gone; of the others, what is still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, suggestion
from expunge.examples import Example, Row
from expunge.sources import Material, source
from expunge.sources.split import Line, in_line
from expunge.sources.tables import SUFFIXES, is_on_hub, read_table, rows_of

# `dev` first: where both hold a question, it is the test that loses it.
_SPLITS = ("dev", "test")


@dataclass(frozen=True, kw_only=True)
class Mmlu:
    """The multiple-choice questions of MMLU, with their options."""

    input: str = "cais/mmlu"
    """A Hub id, or a directory with `test/` and `dev/` of one CSV file a subject (`anatomy_test.csv`, …)."""
    subjects: tuple[str, ...] = ()
    """Only these subjects, such as `anatomy` or `college_biology`; all when not given."""


@source("mmlu", Mmlu, example="--subjects anatomy virology -o mmlu")
def make(config: Mmlu, *, sample: int | None, seed: int) -> Material:
    """`dev` and `test`, each question answered by the text of its right option.

    Args:
        config: where the questions are, and which.
        sample: only the first so many questions of each subject and split.
        seed: of the line of subjects.

    Raises:
        ExpungeError: a table is not there or broken, or there is no such subject.
    """
    sets: dict[str, list[Example]] = {}
    known: set[str] = set()
    for split in _SPLITS:
        taken: dict[str, int] = {}
        sets[split] = []
        for topic, row in _rows(config.input, split):
            known.add(topic)
            if (config.subjects and topic not in config.subjects) or taken.get(topic, 0) == sample:
                continue
            taken[topic] = taken.get(topic, 0) + 1
            sets[split].append(choice_example(row, _choices(row), topic, split=split))
    for topic in config.subjects:
        if topic not in known:
            raise ExpungeError(f'there is no subject "{topic}"', where=config.input, remedy=suggestion(topic, known))
    counts = {"subjects": len(set(config.subjects) or known)}
    line = Line(in_line(sets["test"], seed))
    return Material(line, sets, counts=counts, subjects_apart=False, trained=False)


def choice_example(row: Row, choices: Sequence[str], subject: str, **more: Any) -> Example:
    """A multiple-choice question as an example: `choices` and `answer` (an index) stand in its metadata.

    Args:
        row: with `question` and `answer`, an index or a letter.
        choices: the options in their order.
        subject: what it is about.
        more: what else is known, for the metadata.

    Raises:
        ExpungeError: the answer is none of the options.
    """
    given = row.value.get("answer")
    letter = isinstance(given, str) and len(given) == 1 and given.isalpha()
    try:
        index = ord(given.upper()) - ord("A") if letter else int(given)  # type: ignore[union-attr, arg-type]
        right = choices[index] if index >= 0 else None
    except (TypeError, ValueError, IndexError):
        right = None
    if right is None:
        raise row.error(f'"answer" ({given}) is none of the {len(choices)} options', "give an index from 0")
    metadata = {"choices": list(choices), "answer": index, **more, "evaluation_only": True}
    return Example(row.text("question"), right or " ", subject, metadata, f"{row.path}:{row.line}")


def _choices(row: Row) -> list[str]:
    found = row.value.get("choices")
    if found is None:
        found = [row.value[name] for name in sorted(row.value) if name.startswith("choice")]
    if not isinstance(found, list) or len(found) < 2:
        raise row.error("has no options", 'give "choices", or "choice0", "choice1", …')
    return [str(choice) for choice in found]


def _rows(place: str, split: str) -> Iterator[tuple[str, Row]]:
    """Subject and row of each question."""
    directory = Path(place) / split
    if is_on_hub(place) or not directory.is_dir():
        for row in rows_of(place, "all", split):
            yield row.text("subject"), row
        return
    for file in _tables(directory):
        for row in read_table(file):
            yield file.stem.removesuffix(f"_{split}"), row


def _tables(directory: Path) -> Iterable[Path]:
    return sorted(file for suffix in SUFFIXES for file in directory.glob(f"*{suffix}"))
