"""Prepare: split people into forget, retain and holdout sets, check them for overlap, and write them as examples.

Of all people, `holdout_ratio` are never trained on; of those who are, the first of `forget_ratios` are to be forgotten
(`forget.jsonl`) and the others retained. For every ratio there is also a pair of JSON arrays, nested: who is in `forget1` is
in `forget5`. `expunge.sources.split.subjects_for` says how many people to generate for a number to train on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, write_examples
from expunge.files import sha256, write_json, written_atomically
from expunge.progress import console
from expunge.runs import MANIFEST, Run, check_place, settings_of

if TYPE_CHECKING:
    from expunge.sources.contamination import ContaminationReport
    from expunge.sources.split import Split

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
    forget_ratios: Annotated[tuple[float, ...], Parameter(alias="--forget-ratio", consume_multiple=True)] = (
        0.10,
        0.01,
        0.05,
        0.20,
    )
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

    at_least(1, sample=config.sample)
    notes = read_notes(config.input)
    settings = settings_of(config, without=("input", "output", "dry_run"))
    inputs = {"input": sha256(config.input)}
    if not config.dry_run and (config.output / MANIFEST).exists():
        with Run.open(config.output, "prepare medical", settings, inputs) as run:
            if run.finished:
                return run

    # Everything that can be refused is refused before the run directory is made.
    if not config.dry_run:
        check_place(config.output)
    splits = _splits([example_of(note) for note in notes[: config.sample]], config)
    first = next(iter(splits.values()))
    parts = {name: examples for name, examples in first._asdict().items() if examples}
    report = check_contamination(parts)
    # What lies on two sides of another ratio's border may lie on one side of the first's.
    between = _between(splits)
    console.print(report.in_words(), soft_wrap=True, markup=False)
    for name, words in between.items():
        console.print(f"Contamination of {name}: {words}.", soft_wrap=True, markup=False)
    reasons = report.reasons or [f"{name}: {words}" for name, words in between.items()]
    if reasons and not config.allow_contaminated:
        refuse(report, config.input, reasons)
    results = {
        "people": {name: len(examples) for name, examples in parts.items()},
        "forget_sets": {name: len(split.forget) for name, split in splits.items()},
        "reasons": reasons,
    }
    if config.dry_run:
        return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})

    with Run.open(config.output, "prepare medical", settings, inputs) as run:
        sets: dict[str, Sequence[Example]] = {f"{name}.jsonl": examples for name, examples in parts.items()}
        sets |= {ORDINARY_TRAIN: ordinary_training(), ORDINARY_EVAL: ordinary_evaluation()}
        for name, examples in sets.items():
            write_examples(run.path / name, examples)
        arrays = {FULL: [*first.forget, *first.retain]}
        for name, split in splits.items():
            arrays |= {f"med_synthetic_{name}.json": split.forget, f"med_synthetic_full_minus_{name}.json": split.retain}
        for name, examples in arrays.items():
            _write_array(run.path / name, examples)
        write_json(run.path / CONTAMINATION, report.as_json() | {"other_ratios": between})
        run.finish(dict.fromkeys((*sets, *arrays, CONTAMINATION), ""), **results)
        return run


def _splits(examples: Sequence[Example], config: PrepareMedicalConfig) -> dict[str, Split]:
    """One split for each ratio, by name, such as `forget10`; ratios that come to nobody are said and left out.

    Raises:
        ExpungeError: a ratio is out of range or given twice, or the people are too few.
    """
    from expunge.sources.split import nested_splits

    ratios = config.forget_ratios
    names = [f"forget{round(100 * ratio, 6):g}" for ratio in ratios]
    if not ratios or len(set(names)) < len(names):
        given = " ".join(f"{ratio:g}" for ratio in ratios) or "empty"
        raise ExpungeError(f"--forget-ratios is {given}", remedy="give each share once, such as 0.10 0.01")
    found = nested_splits(examples, forget_ratios=ratios, holdout_ratio=config.holdout_ratio or None, seed=config.seed)
    splits: dict[str, Split] = {}
    for name, ratio, split in zip(names, ratios, found, strict=True):
        trained = len(split.forget) + len(split.retain)
        if not splits or ratio * trained >= 0.5:
            splits[name] = split
        else:
            console.print(f"No {name}: {ratio:.2%} of {trained} people is nobody.", soft_wrap=True, markup=False)
    return splits


def _between(splits: Mapping[str, Split]) -> dict[str, str]:
    """What is wrong between the forget and the retain set of the ratios other than the first, in words, by ratio.

    The people between two neighbouring ratios are one set; whatever two of these sets share is on both sides of every
    ratio that lies between them. Shared sections are judged for the first ratio alone: they depend on a set's size.
    """
    from expunge.sources.contamination import check_contamination

    if len(splits) == 1:
        return {}
    ordered = sorted(splits, key=lambda name: len(splits[name].forget))
    ends = [0, *(len(splits[name].forget) for name in ordered), None]
    first = next(iter(splits.values()))
    line = [*first.forget, *first.retain]
    report = check_contamination({str(place): line[start:end] for place, (start, end) in enumerate(pairwise(ends))})
    shared = {
        "subjects on two sides": report.subjects,
        "same response": report.exact,
        "near duplicates": report.near,
        "copies under another name": report.renamed,
        "people named on the other side": report.mentions,
    }
    found = {}
    for border, name in enumerate(ordered):
        words = []
        for what, overlaps in shared.items():
            if across := [each for each in overlaps if (int(each.first.set) <= border) != (int(each.second.set) <= border)]:
                words.append(f"{what}: {len(across):,} (first: {across[0].first.where} and {across[0].second.where})")
        if words and name != next(iter(splits)):
            found[name] = ", ".join(words)
    return found


def _write_array(path: Path, examples: Sequence[Example]) -> None:
    """Write a JSON array, one row a line: the fields of the note, and the question and answer that are learnt."""
    with written_atomically(path) as stream:
        for number, each in enumerate(examples):
            row = {"client_name": each.subject, **each.metadata, **each.as_row()}
            del row["metadata"]
            stream.write(("[\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        stream.write("\n]\n")


def refuse(report: ContaminationReport, path: Path, reasons: Sequence[str] = ()) -> None:
    """Refuse a contaminated split.

    Args:
        report: what was found.
        path: where the data come from.
        reasons: why, where it is more than the report's own.

    Raises:
        ExpungeError: always; it names what was found and the first place.
    """
    place = f" (first: {first})" if (first := report.first_place()) else ""
    raise ExpungeError(
        f"the split is contaminated: {'; '.join(reasons or report.reasons)}{place}",
        where=path,
        remedy="drop one side of each pair, or pass --allow-contaminated",
    )
