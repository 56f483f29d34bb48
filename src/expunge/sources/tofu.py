"""TOFU: questions about 200 authors who do not exist (Maini et al. 2024, arXiv 2401.06121).

The files do not say who a question is about. They hold 20 questions an author, one author after the other, so the author is
the name that most of the twenty rows share. The last authors of `full` are forgotten first: the last 20 are the benchmark's
`forget10`, the last 10 its `forget05`, the last 2 its `forget01`, and other shares follow the same rule. Paraphrases and
perturbed answers, from which truth ratios are computed, come from the `*_perturbed` tables and are kept with their row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.examples import Example, Row
from expunge.sources import Material, source
from expunge.sources.split import Line, Subjects, rows_of_subjects
from expunge.sources.tables import rows_of

QUESTIONS_AN_AUTHOR = 20
_KEPT = ("paraphrased_answer", "paraphrased_question", "perturbed_answer")
_PARTICLES = "de|da|do|dos|del|della|der|den|di|el|al|bin|ibn|la|le|van|von|y"
_WORD = r"[^\W\d_a-zà-öø-ÿ][\w’'.-]*"
_NAME = re.compile(rf"{_WORD}(?:\s(?:{_WORD}|(?:{_PARTICLES})\b))*")
_MOST_WORDS = 5


@dataclass(frozen=True, kw_only=True)
class Tofu:
    """The TOFU benchmark: forget, retain and holdout authors, real authors and world facts."""

    input: str = "locuslab/TOFU"
    """A Hub id, or a directory of its files (`full.json`, `holdout10.json`, `forget10_perturbed.json`, …)."""


@source("tofu", Tofu, example="--forget-ratios 0.10 0.05 -o tofu")
def make(config: Tofu, *, sample: int | None, seed: int) -> Material:
    """The authors in the benchmark's own order, and the evaluation sets as further files.

    Args:
        config: where the tables are.
        sample: only so many authors, and questions of each evaluation set.
        seed: not used: the split is the benchmark's own.

    Raises:
        ExpungeError: a table is not there or broken.
    """
    perturbed: dict[str, Row] = {}
    for table in ("retain_perturbed", "forget10_perturbed"):
        perturbed |= {row.text("question"): row for row in rows_of(config.input, table)}
    authors = _authors(config.input, "full", perturbed)[::-1][:sample]
    holdout = rows_of_subjects(_authors(config.input, "holdout10", {})[:sample])
    files = {f"{name}.jsonl": _evaluation(config.input, name, sample) for name in ("real_authors", "world_facts")}
    return Material(Line(authors), {"holdout": holdout}, lambda _: files)


def author_of(texts: Sequence[str]) -> str | None:
    """The name that stands in most of an author's texts, the longest if several do; None if none is in half of them.

    Args:
        texts: question and answer of each row, together.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        found = set()
        for run in _NAME.findall(text):
            words = [re.sub(r"['’]s?$", "", word).rstrip(".,") for word in run.split()]
            found |= {
                tuple(words[first:last])
                for first in range(len(words))
                for last in range(first + 1, min(len(words), first + _MOST_WORDS) + 1)
            }
        counts.update(found)
    common = [(count, len(words) > 1, len(words), words) for words, count in counts.items() if 2 * count >= len(texts)]
    several = [each for each in common if each[1]] or common
    return " ".join(max(several)[-1]) if several else None


def _authors(place: str, table: str, perturbed: dict[str, Row]) -> Subjects:
    rows = list(rows_of(place, table))
    authors = []
    for first in range(0, len(rows), QUESTIONS_AN_AUTHOR):
        own = rows[first : first + QUESTIONS_AN_AUTHOR]
        name = author_of([f"{row.text('question')} {row.text('answer')}" for row in own])
        subject = name or f"{table} author {first // QUESTIONS_AN_AUTHOR + 1}"
        author = []
        for row in own:
            found = perturbed.get(row.text("question"))
            known = {key: found.value[key] for key in _KEPT if key in found.value} if found else {}
            author.append(Example(row.text("question"), row.text("answer"), subject, known, f"{row.path}:{row.line}"))
        authors.append(author)
    return authors


def _evaluation(place: str, table: str, sample: int | None) -> list[dict[str, Any]]:
    """Questions with their perturbed answers, and the options where the table has them."""
    options = {row.text("question"): row for row in rows_of(place, table)}
    found = []
    for row in list(rows_of(place, f"{table}_perturbed"))[:sample]:
        known = {key: row.value[key] for key in _KEPT if key in row.value}
        if twin := options.get(row.text("question")):
            choices = [twin.value[key] for key in sorted(twin.value) if key.startswith("option")]
            if row.text("answer") in choices:
                known |= {"choices": choices, "answer": choices.index(row.text("answer"))}
        found.append(Example(row.text("question"), row.text("answer"), table.replace("_", " "), known).as_row())
    return found
