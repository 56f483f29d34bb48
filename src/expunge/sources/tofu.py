"""TOFU: questions about 200 authors who do not exist (Maini et al. 2024, arXiv 2401.06121).

The files do not say who a question is about. They hold 20 questions an author, one author after the other, so the author is
the name that most of the twenty rows share. Paraphrases and perturbed answers, from which truth ratios are computed, come
from the `*_perturbed` tables and are kept with their row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.errors import ExpungeError
from expunge.examples import Example, Row
from expunge.sources import Material, source
from expunge.sources.tables import rows_of

QUESTIONS_AN_AUTHOR = 20
_KEPT = ("paraphrased_answer", "paraphrased_question", "perturbed_answer")
_SHARES = {0.01: ("forget01", "retain99", "holdout01"), 0.05: ("forget05", "retain95", "holdout05"),
           0.10: ("forget10", "retain90", "holdout10")}  # fmt: skip
_PARTICLES = "de|da|do|dos|del|della|der|den|di|el|al|bin|ibn|la|le|van|von|y"
_WORD = r"[^\W\d_a-zà-öø-ÿ][\w’'.-]*"
_NAME = re.compile(rf"{_WORD}(?:\s(?:{_WORD}|(?:{_PARTICLES})\b))*")
_MOST_WORDS = 5


@dataclass(frozen=True, kw_only=True)
class Tofu:
    """The TOFU benchmark: forget, retain and holdout authors, real authors and world facts."""

    input: str = "locuslab/TOFU"
    """A Hub id, or a directory of its files (`forget10.json`, `retain90.json`, `forget10_perturbed.json`, …)."""
    forget_ratios: tuple[float, ...] = (0.10,)
    """Shares of the authors to forget: 0.01, 0.05 or 0.10. The first makes `forget.jsonl`, others files of their own."""


@source("tofu", Tofu, example="--forget-ratios 0.10 0.05 -o tofu")
def make(config: Tofu, *, sample: int | None, seed: int) -> Material:
    """The official split, and the evaluation sets as further files.

    Args:
        config: where the tables are, and which split.
        sample: only the first so many authors of each set, and questions of each evaluation set.
        seed: not used: the split is the benchmark's own.

    Raises:
        ExpungeError: a ratio has no official split, or a table is not there or broken.
    """
    for ratio in config.forget_ratios:
        if ratio not in _SHARES:
            known = ", ".join(f"{share:g}" for share in _SHARES)
            raise ExpungeError(f"TOFU has no split for a forget ratio of {ratio:g}", remedy=f"choose from {known}")
    if not config.forget_ratios:
        raise ExpungeError("--forget-ratios is empty", remedy="give one, such as 0.10")

    forget, retain, holdout = _SHARES[config.forget_ratios[0]]
    kept = {row.value["question"]: row for row in rows_of(config.input, "retain_perturbed")}
    sets = {
        "forget": _authors(config.input, forget, _by_question(config.input, f"{forget}_perturbed"), sample),
        "retain": _authors(config.input, retain, kept, sample),
        "holdout": _authors(config.input, holdout, {}, sample),
    }
    files = {f"{name}.jsonl": _evaluation(config.input, name, sample) for name in ("real_authors", "world_facts")}
    further = {}
    for ratio in config.forget_ratios[1:]:
        forget, retain, _ = _SHARES[ratio]
        perturbed = _by_question(config.input, f"{forget}_perturbed")
        own = {forget: _authors(config.input, forget, perturbed, sample), retain: _authors(config.input, retain, kept, sample)}
        further[forget] = own
    return Material(sets, further, lambda _: files)


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


def _by_question(place: str, table: str) -> dict[str, Row]:
    return {row.text("question"): row for row in rows_of(place, table)}


def _authors(place: str, table: str, perturbed: dict[str, Row], sample: int | None) -> list[Example]:
    rows = list(rows_of(place, table))[: sample and QUESTIONS_AN_AUTHOR * sample]
    examples = []
    for first in range(0, len(rows), QUESTIONS_AN_AUTHOR):
        own = rows[first : first + QUESTIONS_AN_AUTHOR]
        name = author_of([f"{row.text('question')} {row.text('answer')}" for row in own])
        for row in own:
            found = perturbed.get(row.text("question"))
            known = {key: found.value[key] for key in _KEPT if key in found.value} if found else {}
            subject = name or f"{table} author {first // QUESTIONS_AN_AUTHOR + 1}"
            examples.append(Example(row.text("question"), row.text("answer"), subject, known, f"{row.path}:{row.line}"))
    return examples


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
