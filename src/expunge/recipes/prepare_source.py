"""Prepare any registered kind of data: make its sets, check them for overlap, and write them as examples.

What is peculiar to a kind is in its file in `expunge.sources`. Everything that can be refused is refused before the run
directory is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from expunge.errors import ExpungeError, at_least
from expunge.examples import write_examples, write_rows
from expunge.files import write_json
from expunge.progress import console
from expunge.recipes.prepare import CONTAMINATION, ORDINARY_EVAL, ORDINARY_TRAIN, refuse
from expunge.runs import MANIFEST, Run, check_place, settings_of

if TYPE_CHECKING:
    from expunge.sources import Material, Sets
    from expunge.sources.contamination import ContaminationReport


_NOT_OF_THE_RESULT = ("base_url", "concurrency")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Where the sets go, and how carefully."""

    output: Annotated[Path, Parameter(alias=("-o", "--output-dir"))]
    """Run directory for the sets and the contamination report."""
    sample: int | None = None
    """Only so many of what the source is read by: rows, events, authors, papers or questions."""
    seed: int = 42
    """Fixes every draw. With one seed, a smaller forget ratio takes a part of what a larger one takes."""
    dry_run: bool = False
    """Read, split and check, but write nothing."""
    drop_contaminated: bool = False
    """Leave out what overlaps, from the later set of each pair, and rows that contradict themselves; says how many."""
    allow_contaminated: bool = False
    """Write the sets even if they overlap or contradict themselves; the report says so."""


def prepare_source(config: PrepareConfig, kind: str, settings: Any) -> Run:
    """Write the sets of one kind of data and `contamination.json`.

    A dry run comes back as a run that is not finished, with the same `results`, and leaves nothing on the disk.

    Args:
        config: where to, and how carefully.
        kind: a name in `SOURCES`.
        settings: that source's own config.

    Raises:
        ExpungeError: the input is broken or cannot be reached, too little is there for all sets, they are contaminated, or
            the place is taken or cannot be written. Nothing is written then.
    """
    from expunge.sources import SOURCES
    from expunge.sources.tables import fingerprint_of

    source = SOURCES[kind]
    at_least(1, sample=config.sample)
    command = f"prepare {kind}"
    places = {name: place for name in source.inputs if (place := getattr(settings, name)) is not None}
    inputs = {name: fingerprint_of(str(place)) for name, place in places.items()}
    known = settings_of(settings, without=(*source.inputs, *_NOT_OF_THE_RESULT)) | settings_of(
        config, without=("output", "dry_run")
    )
    if not config.dry_run:
        if (config.output / MANIFEST).exists():
            with Run.open(config.output, command, known, inputs) as run:
                if run.finished:
                    return run
        check_place(config.output)

    with _questions(settings, config) as more:
        material = source.make(settings, sample=config.sample, seed=config.seed, **more)
        return _checked_and_written(config, command, known, inputs, material, Path(next(iter(places.values()), kind)))


@contextmanager
def _questions(settings: Any, config: PrepareConfig) -> Iterator[dict[str, Any]]:
    """What a source cannot have by itself, because it is above it: a model that makes questions."""
    if getattr(settings, "engine", "template") == "template" or config.dry_run:
        yield {}
        return
    from expunge.recipes.temporal_questions import asked_of_a_model

    with asked_of_a_model(settings, config.output, config.seed) as questions:
        yield {"questions": questions}


def _checked_and_written(
    config: PrepareConfig, command: str, known: dict[str, Any], inputs: dict[str, str], material: Material, place: Path
) -> Run:
    from expunge.sources.ordinary import ordinary_evaluation, ordinary_training

    main = {name: examples for name, examples in material.sets.items() if examples}
    sets, report, dropped = _checked(main, material.subjects_apart, config)
    reports = {"": report}
    for name, other in material.further.items():
        own, reports[name], more = _checked(
            other | ({"holdout": sets["holdout"]} if "holdout" in sets else {}), material.subjects_apart, config
        )
        # The holdout is one for all: it only shrinks.
        sets |= own
        dropped += more
    for name, found in reports.items():
        console.print(f"{name}: {found.in_words()}" if name else found.in_words(), soft_wrap=True, markup=False)
        if not (found.clean or config.allow_contaminated):
            refuse(found, place)
    rows = {name: len(examples) for name, examples in sets.items()}
    results = {"rows": rows, **material.counts, "dropped": dropped, "reasons": report.reasons}
    if config.dry_run:
        return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})

    with Run.open(config.output, command, known, inputs) as run:
        written = {f"{name}.jsonl": examples for name, examples in sets.items()}
        if material.ordinary:
            written |= {ORDINARY_TRAIN: ordinary_training(), ORDINARY_EVAL: ordinary_evaluation()}
        for name, examples in written.items():
            write_examples(run.path / name, examples)
        files = material.files(sets)
        for name, lines in files.items():
            write_rows(run.path / name, lines)
        further = {name: found.as_json() for name, found in reports.items() if name}
        write_json(run.path / CONTAMINATION, report.as_json() | ({"further": further} if further else {}))
        run.finish(dict.fromkeys((*written, *files, CONTAMINATION), ""), **results)
        return run


def _checked(sets: Sets, apart: bool, config: PrepareConfig) -> tuple[Sets, ContaminationReport, int]:
    """The sets and what was found in them; where it is asked for, without what overlaps, and how many rows that was."""
    from expunge.sources.contamination import check_contamination, without_overlap

    before = sum(map(len, sets.values()))
    report = check_contamination(sets, subjects_apart=apart)
    while config.drop_contaminated and not report.clean:
        console.print(report.in_words(), "Left out.", sep="\n", soft_wrap=True, markup=False)
        sets = without_overlap(sets, report)
        for name, examples in sets.items():
            if not examples:
                raise ExpungeError(f"nothing of {name} is left without what overlaps", remedy="check the data")
        report = check_contamination(sets, subjects_apart=apart)
    return sets, report, before - sum(map(len, sets.values()))
