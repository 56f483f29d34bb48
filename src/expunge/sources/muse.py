"""MUSE: news articles or novels to be forgotten, with the questions of its six audits (Shi et al. 2024, arXiv 2407.06460).

The tables are those of the benchmark: `raw` (forget, retain1, retain2, holdout), `knowmem` (questions on both sides),
`verbmem` (beginnings and what follows), `privleak` (members and non-members), `scal` and `sust` (growing and repeated
requests).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.examples import Example, Row
from expunge.sources import Material, source
from expunge.sources.split import Line
from expunge.sources.tables import is_on_hub, rows_of, table_in

_HUB = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
_FURTHER = {
    "verbmem": ("forget",),
    "knowmem": ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl"),
    "privleak": ("forget", "retain", "holdout"),
    "scal": ("forget_1", "forget_2", "forget_3", "forget_4"),
    "sust": ("forget_1", "forget_2", "forget_3", "forget_4"),
}


@dataclass(frozen=True, kw_only=True)
class Muse:
    """The MUSE benchmark: texts to forget, to retain and held out, and the questions of its audits."""

    corpus: Literal["news", "books"] = "news"
    """Which of the two corpora."""
    input: str | None = None
    """A Hub id or a directory (`raw/forget.jsonl`, `knowmem/forget_qa.jsonl`, …); the corpus's own Hub id if not given."""


@source("muse", Muse, example="--corpus books -o muse")
def make(config: Muse, *, sample: int | None, seed: int) -> Material:
    """The texts in the benchmark's own order, the audits' tables as further files.

    What a directory lacks beside `raw` is left out.

    The retain set is `retain2`, what the benchmark's target has seen; `retain1`, its calibrator, is a further file.

    Args:
        config: which corpus, and where.
        sample: only the first so many rows of each table.
        seed: not used: the split is the benchmark's own.

    Raises:
        ExpungeError: a table is not there or broken.
    """
    place = config.input or _HUB[config.corpus]
    forget, retain, holdout = (
        [_example(row, name) for row in _rows(place, "raw", split, sample)]
        for name, split in (("forget", "forget"), ("retain", "retain2"), ("holdout", "holdout"))
    )
    files = {"retain1.jsonl": _written(place, "raw", "retain1", sample)} if _has(place, "raw", "retain1") else {}
    for table, splits in _FURTHER.items():
        for split in splits:
            if _has(place, table, split):
                files[f"{table}/{split}.jsonl"] = _written(place, table, split, sample)
    # A text is a subject of its own: the benchmark does not say what belongs together.
    line = Line([[example] for example in (*forget, *retain)], len(forget))
    return Material(line, {"holdout": holdout}, lambda _: files)


def _written(place: str, table: str, split: str, sample: int | None) -> list[dict[str, Any]]:
    return [_example(row, split).as_row() for row in _rows(place, table, split, sample)]


def _rows(place: str, table: str, split: str, sample: int | None) -> Iterator[Row]:
    for number, row in enumerate(rows_of(place, table, split)):
        if number == sample:
            return
        yield row


def _has(place: str, table: str, split: str) -> bool:
    return is_on_hub(place) or table_in(Path(place), f"{table}/{split}", split) is not None


def _example(row: Row, side: str) -> Example:
    subject = f"{row.path.parent.name}/{row.path.stem} {row.line}"
    where = f"{row.path}:{row.line}"
    if "question" in row.value:
        return Example(row.text("question"), row.text("answer"), subject, {"set": side}, where)
    if "gt" in row.value:
        return Example(row.text("prompt"), row.text("gt"), subject, {"set": side}, where)
    return Example(None, row.text("text"), subject, {"set": side}, where)
