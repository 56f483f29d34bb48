"""Synthetic notes: how fast, and are they free of contradictions? `python benchmarks/medical_notes.py [--notes 5000]`.

Generates notes from the phrase book, holds age, sex and dates of each against each other, spoils a copy of each on purpose
to show that the check would notice, and splits them with the usual ratios. Prints one line a measurement.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from datetime import date

from expunge.sources.contamination import check_contamination
from expunge.sources.contradiction import contradiction
from expunge.sources.medical import Note, example_of, generate_notes
from expunge.sources.split import FORGET_RATIOS, Line, cut, held_out, in_line, rows_of_subjects


def main() -> None:
    """Generate, check, spoil, split, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()

    for count in sorted({1000, options.notes}):
        start = time.perf_counter()
        notes = generate_notes(count, options.seed)
        people = len({note.client_name.casefold() for note in notes})
        print(f"generate {count:6,} notes of {people:,} people        {time.perf_counter() - start:6.2f} s")
    start = time.perf_counter()
    found = [words for note in notes if (words := _wrong(note))]
    print(f"contradictions                          {len(found):6,} of {len(notes):,}   {time.perf_counter() - start:6.2f} s")
    rng = random.Random(options.seed)
    noticed = sum(_wrong(_spoilt(note, rng)) is not None for note in notes)
    print(f"contradictions where one was planted    {noticed:6,} of {len(notes):,}")
    start = time.perf_counter()
    trained, held = held_out(in_line(map(example_of, notes), options.seed), 0.25)
    line = rows_of_subjects(trained)
    for ratio, count in cut(Line(trained), FORGET_RATIOS).nested.items():
        report = check_contamination({"forget": line[:count], "retain": line[count:], "holdout": rows_of_subjects(held)})
        sizes = ", ".join(f"{name} {rows:,}" for name, rows in report.rows.items())
        print(f"forget {ratio:4.0%}: {sizes}: {'; '.join(report.reasons) or 'nothing shared'}")
    print(f"split and check                                    {time.perf_counter() - start:6.2f} s")


def _wrong(note: Note) -> str | None:
    return contradiction(date.fromisoformat(note.date_of_birth), date.fromisoformat(note.date), note.in_lines())


def _spoilt(note: Note, rng: random.Random) -> Note:
    """The same note of somebody who is much older or younger, or whose date of birth is after the visit."""
    born = date.fromisoformat(note.date_of_birth)
    years = rng.choice([year for year in (-40, -12, -3, 3, 12, 40) if born.year + year < 2030])
    return replace(note, date_of_birth=f"{born.year + years}-{born:%m}-{min(born.day, 28):02}")


if __name__ == "__main__":
    main()
