"""Generate: synthetic notes of people who do not exist, as one JSON-lines file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.files import reported_disk_errors, written_atomically
from expunge.progress import console

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class GenerateMedicalConfig:
    """Synthetic SOAP notes: unique people whose ages, sexes, dates and illnesses agree."""

    output: Path
    """The JSON-lines file to write."""
    n_record: int = 40
    """Notes to write, each of another person."""
    seed: int = 42
    """Another seed, other people. The first notes of a seed are the same whatever their number."""
    overwrite: bool = False
    """Replace the file if it is there and holds something else."""
    dry_run: bool = False
    """Print the first notes and write nothing."""


def generate_medical(config: GenerateMedicalConfig) -> Path:
    """Write the notes, or find that they stand there already.

    Raises:
        ExpungeError: the number is out of range, the file holds something else, or it cannot be written.
    """
    from expunge.sources.medical import generate_notes

    notes = generate_notes(min(config.n_record, _SHOWN) if config.dry_run else config.n_record, config.seed)
    lines = "".join(json.dumps(note.as_row(), ensure_ascii=False) + "\n" for note in notes)
    if config.dry_run:
        print(lines, end="")
        return config.output
    if config.output.is_dir():
        raise ExpungeError("is a directory", where=config.output, remedy="name a file inside it, such as notes.jsonl")
    with reported_disk_errors(config.output):
        there = config.output.read_bytes() if config.output.exists() else None
    if there == lines.encode():
        console.print(f"{config.output} holds these {len(notes):,} notes already.", soft_wrap=True, markup=False)
        return config.output
    if there is not None and not config.overwrite:
        raise ExpungeError("holds something else", where=config.output, remedy="choose another --output or pass --overwrite")
    with written_atomically(config.output) as stream:
        stream.write(lines)
    console.print(f"{config.output}: {len(notes):,} notes.", soft_wrap=True, markup=False)
    return config.output
