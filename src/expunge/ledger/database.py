"""One database: found by path or URL, brought to the present schema, and its complaints put into words.

SQLite is used with a write-ahead log (readers never wait for the writer), enforced foreign keys and a busy timeout; every
writing transaction takes the write lock at its start (`BEGIN IMMEDIATE`), so that writers queue instead of failing half-way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.engine import URL, Connection, Engine, make_url

from expunge.errors import ExpungeError
from expunge.files import reported_disk_errors
from expunge.ledger.schema import SCHEMA_VERSION, Base

BUSY_SECONDS = 30.0
_FORMS = "give a path, sqlite:///path or postgresql://user@host/name"
_MIGRATION_LOCK = 0x65787075
"""PostgreSQL advisory lock: one process at a time brings a database to the present schema."""


class Database:
    """A place to read and write in whole transactions."""

    def __init__(self, place: str | Path, *, create: bool = True, busy_seconds: float = BUSY_SECONDS) -> None:
        """Connect, without looking at the tables yet.

        Args:
            place: a path, or a URL of SQLite or PostgreSQL.
            create: make an SQLite file that is not there.
            busy_seconds: how long to wait for another process's lock.

        Raises:
            ExpungeError: a URL of another kind, a directory, no such file, or a server that does not answer.
        """
        self.url = _parsed(place)
        self.path = Path(self.url.database) if self.is_sqlite and self.url.database else None
        self.place = str(self.path) if self.path else self.url.render_as_string(hide_password=True)
        if self.path:
            if self.path.is_dir():
                raise ExpungeError("is a directory", where=self.place, remedy="name a database file inside it")
            if not self.path.exists():
                if not create:
                    raise ExpungeError("there is no ledger here", where=self.place, remedy="check the path")
                with reported_disk_errors(self.path.parent):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
        self.engine = self._engine(busy_seconds)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with self._explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a transaction that is kept whole when the block ends well, and undone whole when not."""
        with (
            self._explained(),
            self.engine.connect().execution_options(expunge_writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    def sweep(self) -> None:
        """Write the tables anew, so that nothing of what was deleted is left in the bytes of the database.

        Raises:
            ExpungeError: another process keeps the write-ahead log from being emptied.
        """
        with self._explained():
            if not self.is_sqlite:
                tables = ", ".join(Base.metadata.tables)
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql(f"VACUUM FULL {tables}")
                return
            with closing(self.engine.raw_connection()) as driver, closing(driver.cursor()) as cursor:
                try:
                    cursor.execute("VACUUM")
                    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    busy = any(cursor.fetchall()[0][:1])
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorname != "SQLITE_BUSY":
                        raise wrapped(self.engine.dialect, "VACUUM", error) from error
                    busy = True
        if busy:
            what = "deleted from the tables, but another process keeps the old pages in the file"
            raise ExpungeError(what, where=self.place, remedy="end it and run the command again")

    def refresh_statistics(self) -> None:
        """Tell PostgreSQL that tables have grown, or it goes on planning for small ones; SQLite plans well as it is."""
        if not self.is_sqlite:
            with self.writing() as connection:
                connection.exec_driver_sql("ANALYZE entries, training_metadata, token_impacts, top_tokens")

    def migrate(self) -> None:
        """Bring an empty or older database to the present schema, in one transaction.

        Raises:
            ExpungeError: it is of a newer version, an old ledger that must be repaired first, or no ledger at all.
        """
        with self.reading() as connection:
            if self.version(connection) == SCHEMA_VERSION:
                return
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            if self.version(connection) != SCHEMA_VERSION:
                upgrade(connection)

    def version(self, connection: Connection, *, old_too: bool = False) -> str | None:
        """The schema version of the database; None for an empty one, or one from before versions were written down.

        Args:
            connection: to this database.
            old_too: let a ledger from before versions pass, to be looked over or repaired.

        Raises:
            ExpungeError: it is no ledger, of a newer version, or (unless `old_too`) from before versions.
        """
        tables = set(sa.inspect(connection).get_table_names())
        if not tables:
            return None
        if not tables & {OLD_IMPACT_TABLE, *Base.metadata.tables, VERSION_TABLE}:
            what = f"is a database of something else (it has the table {min(tables)})"
            raise ExpungeError(what, where=self.place, remedy="choose another --database")
        version = None
        if VERSION_TABLE in tables:
            version = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if version is None and not old_too and tables != {VERSION_TABLE}:
            remedy = f"run `expunge ledger repair --database {self.place}`"
            raise ExpungeError("is a ledger of an older make", where=self.place, remedy=remedy)
        if version not in (None, SCHEMA_VERSION) and version not in known_versions():
            what = f"was made by a newer expunge (schema {version}, this one knows {SCHEMA_VERSION})"
            raise ExpungeError(what, where=self.place, remedy="upgrade expunge")
        return str(version) if version else None

    def _engine(self, busy_seconds: float) -> Engine:
        try:
            if self.is_sqlite:
                # `sqlite:///path?timeout=5`, as SQLAlchemy's own URLs have it, waits so many seconds instead.
                waits = {} if "timeout" in self.url.query else {"timeout": busy_seconds}
                engine = sa.create_engine(self.url, connect_args=waits)
                sa.event.listen(engine, "connect", _set_up_sqlite)
                sa.event.listen(engine, "begin", _begin_sqlite)
                return engine
            return sa.create_engine(self.url, pool_pre_ping=True, connect_args={"connect_timeout": int(busy_seconds)})
        except ModuleNotFoundError:
            remedy = "pip install 'expunge[postgres]'"
            raise ExpungeError("the PostgreSQL driver is missing", where=self.place, remedy=remedy) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            explained = self._in_words(error)
            if explained is None:
                raise
            raise explained from error

    def _in_words(self, error: sa.exc.DBAPIError) -> ExpungeError | None:
        name = getattr(error.orig, "sqlite_errorname", "")
        for code, (what, remedy) in _SQLITE_ERRORS.items():
            if name.startswith(code):
                return ExpungeError(what, where=self.place, remedy=remedy)
        words = " ".join(str(error.orig).split())
        if "no such table" in words or "no such column" in words or "UndefinedTable" in type(error.orig).__name__:
            remedy = f"run `expunge ledger repair --database {self.place}`"
            return ExpungeError(f"the ledger is damaged ({words})", where=self.place, remedy=remedy)
        state = getattr(error.orig, "sqlstate", None)
        if state == "25006":
            return ExpungeError(_READ_ONLY[0], where=self.place, remedy=_READ_ONLY[1])
        if state == "53100":
            return ExpungeError(_FULL[0], where=self.place, remedy=_FULL[1])
        if not self.is_sqlite and isinstance(error, sa.exc.OperationalError):
            remedy = "check the URL and that the server runs"
            return ExpungeError(f"the database server refuses ({words[:200]})", where=self.place, remedy=remedy)
        return None


OLD_IMPACT_TABLE = "token_impact"
"""What `token_impacts` was once called."""
VERSION_TABLE = "alembic_version"

_READ_ONLY = ("the ledger is read-only", "make the file and its directory writable, or choose another --database")
_FULL = ("the disk is full", "free some space and run the command again")
_SQLITE_ERRORS = {
    "SQLITE_BUSY": ("the ledger is locked by another process", "wait for it to finish, or stop it"),
    "SQLITE_LOCKED": ("the ledger is locked by another process", "wait for it to finish, or stop it"),
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CANTOPEN": ("the ledger cannot be opened", "check the path and its permissions"),
    "SQLITE_NOTADB": ("is not a database", "check the path; an SQLite file is needed"),
    "SQLITE_CORRUPT": ("the database file is damaged", "bring it back from a backup"),
    "SQLITE_FULL": _FULL,
    "SQLITE_IOERR": ("the disk does not answer as it should", "check the disk and run the command again"),
    "SQLITE_PERM": ("the ledger cannot be opened", "check the path and its permissions"),
}


def upgrade(connection: Connection, version: str = "head") -> None:
    """Bring the schema to a version, in the transaction the connection is in."""
    from alembic import command

    command.upgrade(_alembic(connection), version)


def downgrade(connection: Connection, version: str) -> None:
    """Take the schema back to an older version (`base`: nothing), in the transaction the connection is in."""
    from alembic import command

    command.downgrade(_alembic(connection), version)


def insert_rows(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert plain rows (numbers and text) in bulk, past the handling of each value that costs more than the insertion."""
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        if rows:
            marks = ", ".join("?" * len(columns))
            whole = [row if type(row) is tuple else tuple(row) for row in rows]
            connection.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({marks})", whole)
        return
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        raise wrapped(connection.dialect, f"COPY {table}", error) from error


def as_stored(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Rows with moments and truth values as `insert_rows` takes them: SQLite has no kind of its own for either."""
    if connection.dialect.name != "sqlite":
        return rows
    return [tuple(_SQLITE_FORMS.get(type(value), _same)(value) for value in row) for row in rows]


def _same(value: Any) -> Any:
    return value


_SQLITE_FORMS: dict[type, Callable[[Any], Any]] = {
    bool: int,
    # As SQLAlchemy writes and reads it: in UTC, without saying so.
    datetime: lambda moment: moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds"),
}


def new_ids(connection: Connection, table: str, count: int) -> Sequence[int]:
    """Ids for so many new rows: with them, children can be inserted without asking what id each parent was given."""
    if connection.dialect.name == "sqlite":
        # Nobody else writes while this transaction does.
        first = connection.exec_driver_sql(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").scalar_one()
        return range(first, first + count)
    sequence = sa.func.pg_get_serial_sequence(table, "id")
    numbers = sa.func.generate_series(1, count).table_valued("number").render_derived()
    return connection.scalars(sa.select(sa.func.nextval(sa.cast(sequence, REGCLASS))).select_from(numbers)).all()


def widen_cache(connection: Connection) -> None:
    """Before many rows are inserted: the index by token is written all over, and a page in memory need not be read again."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA cache_size = -262144")


def wrapped(dialect: sa.Dialect, statement: str, error: Exception) -> Exception:
    """A driver's own exception as SQLAlchemy would have raised it."""
    base = dialect.loaded_dbapi.Error
    return sa.exc.DBAPIError.instance(statement, None, error, base, dialect=dialect)


def continue_counting(connection: Connection) -> None:
    """Let PostgreSQL number new rows after those that came with their numbers; SQLite does so by itself."""
    if connection.dialect.name == "sqlite":
        return
    for table in Base.metadata.sorted_tables:
        if "id" in table.c and isinstance(table.c.id.type, sa.BigInteger):
            greatest = sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0) + 1).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, "id")
            connection.execute(sa.select(sa.func.setval(sequence, greatest, False)))


def known_versions() -> set[str]:
    """The schema versions this program has migrations for."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_alembic(None)).walk_revisions()}


def _alembic(connection: Connection | None) -> Any:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    # Alembic reads % as the beginning of a variable.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _parsed(place: str | Path) -> URL:
    if isinstance(place, Path) or "://" not in place:
        if not str(place).strip() or str(place) == ":memory:":
            raise ExpungeError(f'"{place}" is no place for a ledger', remedy=_FORMS)
        return URL.create("sqlite", database=str(place))
    try:
        url = make_url(place)
        kind = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ExpungeError("the database URL cannot be read", remedy=_FORMS) from None
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ExpungeError(f'databases of the kind "{kind}" are not supported', remedy=_FORMS)
    if not url.database or url.database == ":memory:":
        raise ExpungeError("a ledger in memory would be gone at once", remedy=_FORMS)
    return url.set(drivername="sqlite")


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver opens no transaction of its own: `_begin_sqlite` does, and so tables change inside transactions too.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        # Looked at before it is set: setting it needs the write lock even where it is set already.
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode = WAL")
        # Safe against a killed process; a power cut may cost the last transactions, never the database.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")
        # A large cache and a long log write each page less often.
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.execute("PRAGMA wal_autocheckpoint = 32768")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("expunge_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
