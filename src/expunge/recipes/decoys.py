"""`expunge generate decoys`: made-up notes under the names of those who go, to be learnt in their place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, write_examples
from expunge.files import reported_disk_errors
from expunge.progress import console

SUBJECT = "nobody"
"""Whom a decoy is about: a request to delete the person must not find it."""


@dataclass(frozen=True, kw_only=True)
class GenerateDecoysConfig:
    """Made-up visit notes under the names of those who go."""

    forget: Path
    """Examples that must go; their questions and names are used, and nothing of their answers."""
    output: Path
    """The JSON-lines file to write."""
    each: int = 3
    """Notes for each person."""
    seed: int = 42
    """Another seed, other notes."""
    overwrite: bool = False
    """Replace the file if it is there and holds something else."""


def generate_decoys(config: GenerateDecoysConfig) -> dict[str, int]:
    """Write the decoys, or find that they stand there already.

    Raises:
        ExpungeError: a number is out of range, an example has no question, or the file holds something else.
    """
    from expunge.sources.medical import example_of, generate_notes

    at_least(1, each=config.each)
    at_least(0, seed=config.seed)
    questions = {example.subject: _question(example) for example in read_examples(config.forget)}
    notes = generate_notes(config.each * len(questions), config.seed)
    decoys = [
        Example(question, example_of(replace(note, client_name=name)).response, SUBJECT)
        for (name, question), note in zip(islice(cycle(questions.items()), len(notes)), notes, strict=True)
    ]
    with reported_disk_errors(config.output):
        there = config.output.exists() and not config.overwrite
    if there and read_examples(config.output) != decoys:
        raise ExpungeError("holds something else", where=config.output, remedy="choose another --output or pass --overwrite")
    if not there:
        write_examples(config.output, decoys)
    console.print(f"{config.output}: {len(decoys):,} decoys for {len(questions):,} people.", soft_wrap=True, markup=False)
    return {"decoys": len(decoys), "people": len(questions)}


def _question(example: Example) -> str:
    if example.prompt is None:
        raise ExpungeError(
            "has no question that a decoy could answer",
            where=example.where or example.subject,
            remedy="give prompt and response",
        )
    return example.prompt
