"""Prepare: split people into forget, retain and holdout sets, check them for overlap, and write them as examples.

Of all people, `holdout_ratio` are never trained on; of those who are (forget and retain), `forget_ratio` are to be
forgotten. `expunge.sources.split.subjects_for` says how many people to generate for a number to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.examples import Example, write_examples
from expunge.files import sha256, write_json
from expunge.progress import console
from expunge.runs import MANIFEST, Run, check_place, settings_of

if TYPE_CHECKING:
    from expunge.sources.contamination import ContaminationReport

FORGET, RETAIN, HOLDOUT = "forget.jsonl", "retain.jsonl", "holdout.jsonl"
ORDINARY_TRAIN, ORDINARY_EVAL = "ordinary_train.jsonl", "ordinary_eval.jsonl"
CONTAMINATION = "contamination.json"


@dataclass(frozen=True, kw_only=True)
class PrepareMedicalConfig:
    """Split SOAP notes by person into forget, retain and holdout sets, checked against each other."""

    input: Path
    """JSON lines {client_name, date_of_birth, date, subjective, objective, assessment, plan}, one person a line."""
    output: Path
    """Run directory for the sets and the contamination report."""
    forget_ratio: float = 0.10
    """Share to be forgotten, of the people who are trained on (forget and retain)."""
    holdout_ratio: float = 0.25
    """Share never trained on, of all people."""
    seed: int = 42
    """Another seed, another split. With one seed, a smaller forget ratio takes a part of what a larger one takes."""
    sample: int | None = None
    """Use only the first so many notes of the file."""
    dry_run: bool = False
    """Read, split and check, but write nothing."""
    allow_contaminated: bool = False
    """Write the sets even if they overlap or contradict themselves; the report says so."""


def prepare_medical(config: PrepareMedicalConfig) -> Run:
    """Write the five sets and `contamination.json`.

    A dry run comes back as a run that is not finished, with the same `results`, and leaves nothing on the disk.

    Raises:
        ExpungeError: the input is broken, the people are too few, the sets are contaminated, or the place is taken or
            cannot be written. Nothing is written then.
    """
    from expunge.sources.contamination import check_contamination
    from expunge.sources.medical import example_of, read_notes
    from expunge.sources.ordinary import ordinary_evaluation, ordinary_training
    from expunge.sources.split import split_by_subject

    if config.sample is not None and config.sample < 1:
        raise ExpungeError(f"--sample is {config.sample}", remedy="choose a number of notes")
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
    split = split_by_subject(
        map(example_of, notes[: config.sample]),
        forget_ratio=config.forget_ratio,
        holdout_ratio=config.holdout_ratio,
        seed=config.seed,
    )
    report = check_contamination(split._asdict())
    console.print(report.in_words(), soft_wrap=True, markup=False)
    if not (report.clean or config.allow_contaminated):
        refuse(report, config.input)
    results = {"people": {name: len(examples) for name, examples in split._asdict().items()}, "reasons": report.reasons}
    if config.dry_run:
        return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})

    with Run.open(config.output, "prepare medical", settings, inputs) as run:
        sets: dict[str, Sequence[Example]] = {FORGET: split.forget, RETAIN: split.retain, HOLDOUT: split.holdout}
        sets |= {ORDINARY_TRAIN: ordinary_training(), ORDINARY_EVAL: ordinary_evaluation()}
        for name, examples in sets.items():
            write_examples(run.path / name, examples)
        write_json(run.path / CONTAMINATION, report.as_json())
        run.finish(dict.fromkeys((*sets, CONTAMINATION), ""), **results)
        return run


def refuse(report: ContaminationReport, path: Path) -> None:
    """Refuse a contaminated split.

    Raises:
        ExpungeError: always; it names what was found and the first place.
    """
    raise ExpungeError(
        f"the split is contaminated: {'; '.join(report.reasons)} (first: {report.first_place()})",
        where=path,
        remedy="drop one side of each pair, or pass --allow-contaminated",
    )
