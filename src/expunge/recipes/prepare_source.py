"""Prepare any registered kind of data: make its sets, check them for overlap, and write them as examples.

What is peculiar to a kind is in its file in `expunge.sources`. Everything that can be refused is refused before the run
directory is made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
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
from expunge.sources.split import FORGET_RATIOS

if TYPE_CHECKING:
    from expunge.examples import Example
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
    forget_ratios: Annotated[tuple[float, ...], Parameter(alias="--forget-ratio")] = FORGET_RATIOS
    """Shares to be forgotten of all that is trained on, nested in each other; each makes a pair such as `forget10.jsonl` and
    `retain90.jsonl`. The first also makes `forget.jsonl` and `retain.jsonl`, where the data do not say themselves what is to
    be forgotten."""
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
    from expunge.sources.split import cut, pair_names, rows_of_subjects

    found = cut(material.line, config.forget_ratios, main=material.trained)
    if found.left_out:
        console.print(f"No sets of their own for forget ratios {found.left_out}.", soft_wrap=True, markup=False)
    subjects = material.line.subjects
    borders = {ratio: len(rows_of_subjects(subjects[:count])) for ratio, count in found.nested.items()}
    line = rows_of_subjects(subjects)
    sets = {name: examples for name, examples in material.sets.items() if examples}
    before = sum(map(len, sets.values()))
    if material.trained:
        main = len(rows_of_subjects(subjects[: found.forgotten]))
        before += len(line)
        sets = {"forget": line[:main], "retain": line[main:], **sets}
    places = {id(example): number for number, example in enumerate(line)}
    sets, report = _checked(sets, material, {pair_names(ratio)[0]: border for ratio, border in borders.items()}, places, config)
    console.print(report.in_words(), soft_wrap=True, markup=False)
    if not (report.clean or config.allow_contaminated):
        refuse(report, place, "pass --drop-contaminated to leave out one side of each pair")
    left = {id(example) for examples in sets.values() for example in examples}
    pairs: Sets = {}
    for ratio, border in borders.items():
        for name, examples in zip(pair_names(ratio), (line[:border], line[border:]), strict=True):
            pairs[name] = [example for example in examples if id(example) in left]
            _refuse_empty(name, pairs[name])
    dropped = before - sum(map(len, sets.values()))
    rows = {name: len(examples) for name, examples in (sets | pairs).items()}
    results = {"rows": rows, **material.counts, "dropped": dropped, "reasons": report.reasons}
    if config.dry_run:
        return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})

    with Run.open(config.output, command, known, inputs) as run:
        written = {f"{name}.jsonl": examples for name, examples in (sets | pairs).items()}
        if material.trained:
            written |= {ORDINARY_TRAIN: ordinary_training(), ORDINARY_EVAL: ordinary_evaluation()}
        for name, examples in written.items():
            write_examples(run.path / name, examples)
        files = material.files(sets)
        for name, lines in files.items():
            write_rows(run.path / name, lines)
        write_json(run.path / CONTAMINATION, report.as_json())
        run.finish(dict.fromkeys((*written, *files, CONTAMINATION), ""), **results)
        return run


def _checked(
    sets: Sets, material: Material, borders: Mapping[str, int], places: Mapping[int, int], config: PrepareConfig
) -> tuple[Sets, ContaminationReport]:
    """The sets and what was found in them; where it is asked for, without what overlaps.

    Args:
        sets: the main sets and the others.
        material: what they are made of.
        borders: how many examples at the front of the line each further forget set holds.
        places: where in the line an example stands, by its identity.
        config: whether to leave out what overlaps.
    """
    from expunge.sources.contamination import check_contamination, without_overlap

    def checked() -> ContaminationReport:
        trained: list[Example] = [*sets["forget"], *sets["retain"]] if material.trained else []
        left = sorted(places[id(example)] for example in trained)
        nested = {name: bisect_left(left, border) for name, border in borders.items()} if trained else {}
        return check_contamination(sets, subjects_apart=material.subjects_apart, nested=nested)

    report = checked()
    while config.drop_contaminated and not report.clean:
        console.print(report.in_words(), "Left out.", sep="\n", soft_wrap=True, markup=False)
        sets = without_overlap(sets, report)
        for name, examples in sets.items():
            _refuse_empty(name, examples)
        report = checked()
    return sets, report


def _refuse_empty(name: str, examples: Sequence[Example]) -> None:
    if not examples:
        raise ExpungeError(f"nothing of {name} is left without what overlaps", remedy="check the data")
