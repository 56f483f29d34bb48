"""Prepare: split people into forget, retain and holdout sets, check them for overlap, and write them as examples.

Of all people, `holdout_ratio` are never trained on; of those who are, the first of `forget_ratios` are to be forgotten
(`forget.jsonl`) and the others retained. For every ratio there is also a pair of JSON arrays, nested: who is in `forget1` is
in `forget5`. `expunge.sources.split.subjects_for` says how many people to generate for a number to train on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, write_examples
from expunge.files import sha256, write_json, written_atomically
from expunge.progress import console
from expunge.runs import MANIFEST, Run, check_place, settings_of
from expunge.sources.split import FORGET_RATIOS

if TYPE_CHECKING:
    from expunge.sources.contamination import ContaminationReport

FORGET, RETAIN, HOLDOUT = "forget.jsonl", "retain.jsonl", "holdout.jsonl"
ORDINARY_TRAIN, ORDINARY_EVAL = "ordinary_train.jsonl", "ordinary_eval.jsonl"
CONTAMINATION = "contamination.json"
FULL = "med_synthetic_full.json"


@dataclass(frozen=True, kw_only=True)
class PrepareMedicalConfig:
    """Split SOAP notes by person into forget, retain and holdout sets, checked against each other."""

    input: Path
    """JSON lines {client_name, date_of_birth, date, subjective, objective, assessment, plan}, one person a line."""
    output: Path
    """Run directory for the sets and the contamination report."""
    forget_ratios: Annotated[tuple[float, ...], Parameter(alias="--forget-ratio")] = FORGET_RATIOS
    """Shares to be forgotten, of the people who are trained on. The first makes `forget.jsonl` and `retain.jsonl`; each makes
    `med_synthetic_forget10.json` and `med_synthetic_full_minus_forget10.json` by its own number."""
    holdout_ratio: float = 0.25
    """Share never trained on, of all people; 0 to train on everybody, which leaves an audit without strangers."""
    seed: int = 42
    """Another seed, another split. With one seed, a smaller forget ratio takes a part of what a larger one takes."""
    sample: int | None = None
    """Use only the first so many notes of the file."""
    dry_run: bool = False
    """Read, split and check, but write nothing."""
    allow_contaminated: bool = False
    """Write the sets even if they overlap or contradict themselves; the report says so."""


def prepare_medical(config: PrepareMedicalConfig) -> Run:
    """Write the sets and `contamination.json`.

    A dry run comes back as a run that is not finished, with the same `results`, and leaves nothing on the disk.

    Raises:
        ExpungeError: the input is broken, the people are too few, the sets are contaminated, or the place is taken or
            cannot be written. Nothing is written then.
    """
    from expunge.sources.contamination import check_contamination
    from expunge.sources.medical import example_of, read_notes
    from expunge.sources.ordinary import ordinary_evaluation, ordinary_training
    from expunge.sources.split import Line, check_ratios, cut, held_out, in_line, percent, rows_of_subjects

    at_least(1, sample=config.sample)
    notes = read_notes(config.input)
    settings = settings_of(config, without=("input", "output", "dry_run"))
    inputs = {"input": sha256(config.input)}
    if not config.dry_run and (config.output / MANIFEST).exists():
        with Run.open(config.output, "prepare medical", settings, inputs) as run:
            if run.finished:
                return run

    # Everything that can be refused is refused before the run directory is made.
    check_ratios(config.forget_ratios)
    if not config.dry_run:
        check_place(config.output)
    people = in_line((example_of(note) for note in notes[: config.sample]), config.seed)
    trained, held = held_out(people, config.holdout_ratio or None)
    found = cut(Line(trained), config.forget_ratios)
    if found.left_out:
        console.print(f"No sets of their own for forget ratios {found.left_out}.", soft_wrap=True, markup=False)
    # One person, one note: subjects are rows.
    line, count = rows_of_subjects(trained), found.forgotten
    parts = {"forget": line[:count], "retain": line[count:], "holdout": rows_of_subjects(held)}
    parts = {name: examples for name, examples in parts.items() if examples}
    nested = {f"forget{percent(ratio)}": size for ratio, size in found.nested.items()}
    report = check_contamination(parts, nested=nested)
    console.print(report.in_words(), soft_wrap=True, markup=False)
    if not (report.clean or config.allow_contaminated):
        refuse(report, config.input, "drop one side of each pair")
    results = {
        "people": {name: len(examples) for name, examples in parts.items()},
        "forget_sets": nested,
        "reasons": report.reasons,
    }
    if config.dry_run:
        return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})

    with Run.open(config.output, "prepare medical", settings, inputs) as run:
        sets: dict[str, Sequence[Example]] = {f"{name}.jsonl": examples for name, examples in parts.items()}
        sets |= {ORDINARY_TRAIN: ordinary_training(), ORDINARY_EVAL: ordinary_evaluation()}
        for name, examples in sets.items():
            write_examples(run.path / name, examples)
        arrays = {FULL: line}
        for name, size in nested.items():
            arrays |= {f"med_synthetic_{name}.json": line[:size], f"med_synthetic_full_minus_{name}.json": line[size:]}
        for name, examples in arrays.items():
            _write_array(run.path / name, examples)
        write_json(run.path / CONTAMINATION, report.as_json())
        run.finish(dict.fromkeys((*sets, *arrays, CONTAMINATION), ""), **results)
        return run


def _write_array(path: Path, examples: Sequence[Example]) -> None:
    """Write a JSON array, one row a line: the fields of the note, and the question and answer that are learnt."""
    with written_atomically(path) as stream:
        for number, each in enumerate(examples):
            row = {"client_name": each.subject, **each.metadata, **each.as_row()}
            del row["metadata"]
            stream.write(("[\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        stream.write("\n]\n")


def refuse(report: ContaminationReport, path: Path, remedy: str) -> None:
    """Refuse a contaminated split.

    Args:
        report: what was found.
        path: where the data come from.
        remedy: what can be done beside allowing it.

    Raises:
        ExpungeError: always; it names what was found and the first place.
    """
    place = f" (first: {first})" if (first := report.first_place()) else ""
    raise ExpungeError(
        f"the split is contaminated: {'; '.join(report.reasons)}{place}",
        where=path,
        remedy=f"{remedy}, or pass --allow-contaminated",
    )
