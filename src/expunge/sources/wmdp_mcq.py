"""WMDP: multiple-choice questions on hazardous knowledge, to see whether it is gone (Li et al. 2024, arXiv 2403.03218).

For evaluation only: whoever trains on them, or on what is needed to answer them, has made the hazard. The local form, five
splits that share no knowledge (Deeb & Roger 2024, arXiv 2410.08827), serves the audit that relearns some splits and asks
the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge.errors import ExpungeError
from expunge.examples import Example, Row
from expunge.sources import Material, source
from expunge.sources.mmlu import choice_example
from expunge.sources.split import Line, in_line
from expunge.sources.tables import is_on_hub, rows_of

DOMAINS = ("wmdp-bio", "wmdp-chem", "wmdp-cyber")


@dataclass(frozen=True, kw_only=True)
class WmdpMcq:
    """The multiple-choice questions of WMDP, with their options; for evaluation only."""

    input: str = "cais/wmdp"
    """A Hub id with a table for each domain, or a file of rows {split, question, choices, answer}."""
    domains: tuple[str, ...] = DOMAINS
    """Which tables of a Hub id to take."""


@source("wmdp-mcq", WmdpMcq, example="-i wmdp_mcq_deduped.jsonl -o wmdp-mcq")
def make(config: WmdpMcq, *, sample: int | None, seed: int) -> Material:
    """One set for each domain or split, held against each other.

    Args:
        config: where the questions are.
        sample: only the first so many questions of each set.
        seed: of the line of questions: the forget ratios draw from all sets together.

    Raises:
        ExpungeError: a table is not there or broken.
    """
    sets: dict[str, list[Example]] = {}

    def add(name: str, row: Row) -> None:
        choices = row.value.get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            raise row.error("has no options", 'give "choices", a list')
        if sample is None or len(sets.setdefault(name, [])) < sample:
            sets.setdefault(name, []).append(choice_example(row, [str(choice) for choice in choices], name, set=name))

    if is_on_hub(config.input):
        if not config.domains:
            raise ExpungeError("--domains is empty", remedy=f"choose from {', '.join(DOMAINS)}")
        for domain in config.domains:
            for row in rows_of(config.input, domain, "test"):
                add(domain, row)
    else:
        for row in rows_of(config.input):
            split = row.value.get("split", 0)
            if not isinstance(split, int | str):
                raise row.error('"split" must be a number or text', "mend this row")
            add(f"split_{split}", row)
    everything = [example for examples in sets.values() for example in examples]
    line = Line(in_line(everything, seed, key=lambda example: f"{example.prompt} {example.response}"))
    return Material(line, sets, trained=False)
