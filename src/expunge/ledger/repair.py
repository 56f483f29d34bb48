"""Mend a ledger of an older make, or one whose rows contradict each other.

Where only rows are wrong, they are mended in place. Where the tables are wrong (old names, missing columns, keys), new tables
are made beside the old ones, everything is carried over, and the old ones are dropped. Either way: a backup first, then one
transaction. What older makes look like:

- a table `token_impact` in place of `token_impacts`, or both;
- several token impacts for one training use (now: one, with the tokens of all);
- impact data as JSON `{"critical_tokens": [...], "impact_threshold": x, "total_tokens": n}` in a column of any of these tables;
- no table of entries or runs, missing columns, keys and indexes, children without parents.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from expunge.errors import ExpungeError
from expunge.files import free_bytes
from expunge.ledger.database import OLD_IMPACT_TABLE, VERSION_TABLE, Database, continue_counting, upgrade
from expunge.ledger.impacts import TokenImpact
from expunge.ledger.recorder import insert_top_tokens
from expunge.ledger.schema import (
    ACTIONS,
    SCHEMA_VERSION,
    Base,
    Entry,
    RunRow,
    TokenImpactRow,
    TopTokenRow,
    TrainingMetadata,
    now,
    subject_key,
)
from expunge.ledger.validation import content_faults, layout_faults, orphan_conditions, token_faults

UNKNOWN = "unknown"
"""Subject, and checkpoint, of what an older make did not write down."""
_CHUNK = 5000
_OLD = "old_"
_IMPACT_TABLES = ("token_impacts", OLD_IMPACT_TABLE)
_ALIASES = {
    "entry_id": ("example_id",),
    "metadata_id": ("training_metadata_id",),
    "model_checkpoint_hash": ("model_checkpoint", "checkpoint_hash", "checkpoint"),
    "token_impact_id": ("impact_id",),
    "impact": ("impact_score", "score"),
    "source_key": ("source",),
    "subject": ("client_name",),
    "timestamp": ("created_at",),
}
"""Other names under which older makes have a column."""


class Repair(NamedTuple):
    """What `repair` did, or with `dry_run` would do."""

    place: str
    steps: list[str]
    """One line each; none when there is nothing to mend."""
    backup: str | None
    """Where the ledger as it was lies."""


def repair(database: Database, *, dry_run: bool = False) -> Repair:
    """Mend a ledger of any make. Doing it again changes nothing.

    Args:
        database: the ledger; nobody else may be writing to it.
        dry_run: only say what would be done: all of it is done, counted, and undone.

    Raises:
        ExpungeError: it is no ledger, of a newer version, or in use, or there is no room for the backup.
    """
    with database.reading() as connection:
        version = database.version(connection, old_too=True)
        layout = list(layout_faults(connection, version))
        if not layout and not any(finding.broken for finding in content_faults(connection)):
            return Repair(database.place, [], None)
    backup = None if dry_run else _backed_up(database)
    steps: list[str] = []
    try:
        with _unchecked(database) as connection:
            if version not in (None, SCHEMA_VERSION) and _upgraded(connection):
                steps.append(f"schema {version}: brought to {SCHEMA_VERSION}")
                layout = list(layout_faults(connection, SCHEMA_VERSION))
            if layout:
                steps += [f"{fault}: mended" for fault in layout]
                steps += _rebuild(connection)
            steps += _mend_rows(connection)
            _check(connection, database)
            if dry_run:
                raise _UndoError
    except _UndoError:
        pass
    return Repair(database.place, steps, backup)


class _UndoError(Exception):
    pass


def _upgraded(connection: Connection) -> bool:
    """Whether the migrations bring an older schema to the present one; they do not where its tables are damaged."""
    try:
        with connection.begin_nested():
            upgrade(connection)
    except sa.exc.SQLAlchemyError:
        return False
    return True


@contextmanager
def _unchecked(database: Database) -> Iterator[Connection]:
    """A writing transaction in which SQLite does not follow foreign keys: dropping a table would drop its children."""
    if not database.is_sqlite:
        with database.writing() as connection:
            yield connection
        return

    def unset(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys = OFF")

    database.close()
    sa.event.listen(database.engine, "connect", unset)
    try:
        with database.writing() as connection:
            yield connection
    finally:
        sa.event.remove(database.engine, "connect", unset)
        database.close()


def _backed_up(database: Database) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    if database.path is None:
        with database.writing() as connection:
            schemas = sa.inspect(connection).get_schema_names()
            schema = next(name for name in _numbered(f"expunge_backup_{stamp.lower()}") if name not in schemas)
            connection.execute(sa.schema.CreateSchema(schema))
            for name in sorted(set(sa.inspect(connection).get_table_names()) & {OLD_IMPACT_TABLE, *Base.metadata.tables}):
                copy = _quoted(connection, schema) + "." + _quoted(connection, name)
                connection.exec_driver_sql(f"CREATE TABLE {copy} AS TABLE {_quoted(connection, name)}")
        return f"schema {schema}"
    names = _numbered(f"{database.path.name}.backup-{stamp}")
    path = next(path for name in names if not (path := database.path.with_name(name)).exists())
    if free_bytes(path.parent) < 2 * database.path.stat().st_size:
        raise ExpungeError("there is no room for a backup", where=path, remedy="free some space and run the command again")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with closing(sqlite3.connect(database.path)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(path)
    except sqlite3.Error as error:
        raise ExpungeError(f"the backup cannot be written ({error})", where=path, remedy="free some space") from None
    finally:
        partial.unlink(missing_ok=True)
    return str(path)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


class _OldTable:
    """A table of an older make, set aside while the new ones are filled."""

    def __init__(self, connection: Connection, name: str, moved_to: str) -> None:
        self.name = name
        self.table = sa.Table(moved_to, sa.MetaData(), autoload_with=connection, resolve_fks=False)

    def column(self, name: str) -> sa.Column[Any] | None:
        """The column that holds what is now called `name`."""
        return next((self.table.c[known] for known in (name, *_ALIASES.get(name, ())) if known in self.table.c), None)

    def expression(self, name: str, default: Any) -> Any:
        column = self.column(name)
        if column is not None:
            return sa.func.coalesce(column, default)
        return default if isinstance(default, sa.ColumnElement) else sa.literal(default)

    def rows(self, connection: Connection) -> Iterator[Any]:
        columns: list[Any] = [sa.type_coerce(column, sa.types.NullType()).label(column.name) for column in self.table.c]
        key = self.column("id")
        query = sa.select(*columns).order_by(*([] if key is None else [key]))
        yield from connection.execute(query, execution_options={"yield_per": _CHUNK})


def _rebuild(connection: Connection) -> list[str]:
    referred = _parent_of_top_tokens(connection)
    old = _set_aside(connection)
    upgrade(connection)
    steps = [
        *_carry_entries(connection, old),
        *_carry_runs_and_uses(connection, old),
        *_carry_impacts(connection, old, referred),
    ]
    for name in ("deletion_requests", "request_subjects", "request_entries", "audits", "tombstones"):
        if name in old:
            steps += _carry_same(connection, old[name], Base.metadata.tables[name])
    for table in old.values():
        table.table.drop(connection)
    continue_counting(connection)
    return steps


def _set_aside(connection: Connection) -> dict[str, _OldTable]:
    there = set(sa.inspect(connection).get_table_names())
    names = [name for name in (*Base.metadata.tables, OLD_IMPACT_TABLE) if name in there]
    if VERSION_TABLE in there:
        connection.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}")
    for name in names:
        _drop_keys(connection, name)
        connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {_OLD}{name}")
    return {name: _OldTable(connection, name, f"{_OLD}{name}") for name in names}


def _drop_keys(connection: Connection, name: str) -> None:
    """Give the names of a table's indexes and keys free for the new table."""
    inspector = sa.inspect(connection)
    if connection.dialect.name != "sqlite":
        keys = [key["name"] for key in inspector.get_foreign_keys(name)]
        keys += [key["name"] for key in inspector.get_unique_constraints(name)]
        keys += [inspector.get_pk_constraint(name)["name"]]
        for key in keys:
            if key:
                quoted = _quoted(connection, key)
                connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {quoted} CASCADE")
        inspector = sa.inspect(connection)
    for index in inspector.get_indexes(name):
        if index["name"] and not str(index["name"]).startswith("sqlite_autoindex"):
            connection.exec_driver_sql(f"DROP INDEX IF EXISTS {_quoted(connection, index['name'])}")


def _parent_of_top_tokens(connection: Connection) -> str:
    """The table that the old `top_tokens` refers to, where both names of it are there."""
    inspector = sa.inspect(connection)
    there = inspector.get_table_names()
    if "top_tokens" in there:
        for key in inspector.get_foreign_keys("top_tokens"):
            if key["referred_table"] in _IMPACT_TABLES and key["referred_table"] in there:
                return str(key["referred_table"])
    return next((name for name in _IMPACT_TABLES if name in there), _IMPACT_TABLES[0])


def _carry_entries(connection: Connection, old: Mapping[str, _OldTable]) -> Iterator[str]:
    moment = now()
    if "entries" in old:
        known: set[str] = set()
        for rows in _chunks(old["entries"].rows(connection)):
            new = {entry["id"]: entry for row in rows if (entry := _entry(row, moment))["id"] not in known}
            known |= new.keys()
            if new:
                connection.execute(sa.insert(Entry), list(new.values()))
        return
    if (uses := old.get("training_metadata")) is None or (column := uses.column("entry_id")) is None:
        return
    ids = [str(entry_id) for entry_id in connection.scalars(sa.select(column).distinct().where(column.is_not(None)))]
    for chunk in _chunks(iter(ids)):
        connection.execute(sa.insert(Entry), [_unknown_entry(entry_id, moment) for entry_id in chunk])
    if ids:
        yield f"{len(ids)} entries were never written down: entered with the subject {UNKNOWN!r}"


def _unknown_entry(entry_id: str, moment: datetime) -> dict[str, Any]:
    return {
        "id": entry_id,
        "source_key": "",
        "content_hash": "",
        "subject": UNKNOWN,
        "subject_key": subject_key(UNKNOWN),
        "revision": 1,
        "action": "added",
        "added_at": moment,
        "updated_at": moment,
    }


def _entry(row: Row[Any], moment: datetime) -> dict[str, Any]:
    subject = str(_value(row, "subject", UNKNOWN))
    action = str(_value(row, "action", "added"))
    added = _moment(_value(row, "added_at", None)) or _moment(_value(row, "timestamp", None)) or moment
    return {
        "id": str(_value(row, "id", "")),
        "source_key": str(_value(row, "source_key", "")),
        "content_hash": str(_value(row, "content_hash", "")),
        "subject": subject,
        "subject_key": subject_key(subject),
        "revision": int(_value(row, "revision", 1)),
        "action": action if action in ACTIONS else "added",
        "added_at": added,
        "updated_at": _moment(_value(row, "updated_at", None)) or added,
    }


def _carry_runs_and_uses(connection: Connection, old: Mapping[str, _OldTable]) -> Iterator[str]:
    moment = now()
    runs: set[Any] = set()
    if "runs" in old:
        for row in old["runs"].rows(connection):
            found = {
                "id": int(_value(row, "id", 0)),
                "name": str(_value(row, "name", UNKNOWN)),
                "path": str(_value(row, "path", "")),
                "checkpoint": str(_value(row, "checkpoint", UNKNOWN)),
                "started_at": _moment(_value(row, "started_at", None)) or moment,
            }
            connection.execute(sa.insert(RunRow), [found])
            runs.add(found["id"])
    if "training_metadata" not in old:
        return
    entries = set(connection.scalars(sa.select(Entry.id)))
    recovered = _RecoveredRuns(connection, first=max(runs, default=0) + 1, moment=moment)
    seen: set[tuple[str, Any]] = set()
    ids: set[int] = set()
    late: list[dict[str, Any]] = []
    orphans = 0
    for rows in _chunks(old["training_metadata"].rows(connection)):
        uses = []
        for row in rows:
            entry_id, checkpoint = str(_value(row, "entry_id", "")), str(_value(row, "model_checkpoint_hash", UNKNOWN))
            if entry_id not in entries:
                orphans += 1
                continue
            run_id: Any = _value(row, "run_id", None)
            if run_id not in runs or (entry_id, run_id) in seen:
                run_id = recovered.run_of(entry_id, checkpoint)
            seen.add((entry_id, run_id))
            use = {
                "entry_id": entry_id,
                "run_id": run_id,
                "model_checkpoint_hash": checkpoint,
                "average_loss": _number(_value(row, "average_loss", None)),
                "relative_loss": _number(_value(row, "relative_loss", None)),
                "used_in_training": bool(_value(row, "used_in_training", True)),
                "timestamp": _moment(_value(row, "timestamp", None)) or moment,
            }
            key = _value(row, "id", None)
            if key is None or int(key) in ids:
                late.append(use)
                continue
            ids.add(int(key))
            uses.append(use | {"id": int(key)})
        if uses:
            connection.execute(sa.insert(TrainingMetadata), uses)
    for position, use in enumerate(late, max(ids, default=0) + 1):
        connection.execute(sa.insert(TrainingMetadata), [use | {"id": position}])
    if recovered.made:
        yield f"training uses of no known run: given to {recovered.made} recovered runs, one a checkpoint and repetition"
    if orphans:
        yield f"{orphans} training uses of entries that are not there: removed"


class _RecoveredRuns:
    """Runs for uses that name none: of one checkpoint, each entry's n-th use is of the n-th run, so that none is lost."""

    def __init__(self, connection: Connection, first: int, moment: datetime) -> None:
        self._connection, self._next, self._moment = connection, first, moment
        self._runs: dict[tuple[str, int], int] = {}
        self._uses: dict[tuple[str, str], int] = {}

    @property
    def made(self) -> int:
        return len(self._runs)

    def run_of(self, entry_id: str, checkpoint: str) -> int:
        repetition = self._uses[entry_id, checkpoint] = self._uses.get((entry_id, checkpoint), 0) + 1
        if (checkpoint, repetition) not in self._runs:
            path = f"recovered/{repetition}"
            row = {"id": self._next, "name": "recovered", "path": path, "checkpoint": checkpoint, "started_at": self._moment}
            self._connection.execute(sa.insert(RunRow), [row])
            self._runs[checkpoint, repetition] = self._next
            self._next += 1
        return self._runs[checkpoint, repetition]


def _carry_impacts(connection: Connection, old: Mapping[str, _OldTable], referred: str) -> Iterator[str]:
    """One token impact a training use, whatever tables and JSON columns its parts lie in."""
    parts = sa.Table(
        "old_impact_parts",
        sa.MetaData(),
        sa.Column("origin", sa.String(64)),
        sa.Column("old_id", sa.BigInteger),
        sa.Column("metadata_id", sa.BigInteger, index=True),
        sa.Column("total_tokens", sa.Integer),
    )
    parts.create(connection)
    found = 0
    for name in _IMPACT_TABLES:
        if name in old and (metadata_id := old[name].column("metadata_id")) is not None:
            columns = (sa.literal(name), old[name].expression("id", 0), metadata_id, old[name].expression("total_tokens", 0))
            found += connection.execute(sa.insert(parts).from_select(list(parts.c.keys()), sa.select(*columns))).rowcount
    unreadable = 0
    for chunk in _chunks(_json_impacts(connection, old)):
        unreadable += sum(impact is None for _, impact in chunk)
        rows = [
            {"origin": "json", "old_id": 0, "metadata_id": metadata_id, "total_tokens": impact.total_tokens}
            for metadata_id, impact in chunk
            if impact is not None
        ]
        if rows:
            connection.execute(sa.insert(parts), rows)
    made = connection.execute(
        sa.insert(TokenImpactRow).from_select(
            ["metadata_id", "total_tokens"],
            sa.select(parts.c.metadata_id, sa.func.max(parts.c.total_tokens))
            .join(TrainingMetadata, TrainingMetadata.id == parts.c.metadata_id)
            .group_by(parts.c.metadata_id)
            .order_by(parts.c.metadata_id),
        )
    ).rowcount
    yield from _carry_top_tokens(connection, old, parts, referred)
    turned = 0
    for chunk in _chunks(_json_impacts(connection, old)):
        wanted = {metadata_id for metadata_id, impact in chunk if impact is not None}
        ids = _impact_ids(connection, wanted)
        tokens = [
            (ids[metadata_id], *token)
            for metadata_id, impact in chunk
            if impact is not None and metadata_id in ids
            for token in impact.top_tokens
        ]
        insert_top_tokens(connection, tokens)
        turned += len(tokens)
    if turned:
        yield f"{turned} critical tokens held as JSON: turned into top_tokens"
    if unreadable:
        yield f"{unreadable} impact records in JSON of no known form: left behind, in the backup alone"
    # A sequence is at least as long as its last token stands, where an older make did not say how long it was.
    longest = sa.select(sa.func.max(TopTokenRow.position) + 1).where(TopTokenRow.token_impact_id == TokenImpactRow.id)
    connection.execute(
        sa.update(TokenImpactRow)
        .where(TokenImpactRow.total_tokens <= 0)
        .values(total_tokens=sa.func.coalesce(longest.scalar_subquery(), 0))
    )
    orphaned = sa.select(sa.func.count()).select_from(parts)
    orphaned = orphaned.where(~sa.exists().where(TrainingMetadata.id == parts.c.metadata_id))
    if lost := connection.scalar(orphaned):
        yield f"{lost} token impacts of training uses that are not there: removed"
    if (merged := (connection.scalar(sa.select(sa.func.count()).select_from(parts)) or 0) - (lost or 0) - made) > 0:
        yield f"{merged} token impacts of a training use that has another: merged into it"
    parts.drop(connection)


def _carry_top_tokens(connection: Connection, old: Mapping[str, _OldTable], parts: sa.Table, referred: str) -> Iterator[str]:
    if "top_tokens" not in old:
        return
    tokens = old["top_tokens"]
    parent = tokens.column("token_impact_id")
    needed = [column for name in ("token_id", "position", "impact") if (column := tokens.column(name)) is not None]
    total = connection.scalar(sa.select(sa.func.count()).select_from(tokens.table)) or 0
    carried = 0
    if parent is not None and len(needed) == 3:
        position = tokens.expression("position", 0)
        wanted = sa.select(
            TokenImpactRow.id,
            *needed,
            tokens.expression("context_start", position),
            tokens.expression("context_end", position + 1),
        ).where(*(column.is_not(None) for column in needed))
        others = [name for name in _IMPACT_TABLES if name != referred and name in old]
        # In the table that the key names; where it is not there, in the other.
        for origin, unless in ((referred, None), *((name, referred) for name in others)):
            query = (
                wanted.join_from(tokens.table, parts, sa.and_(parts.c.origin == origin, parts.c.old_id == parent))
                .join(TokenImpactRow, TokenImpactRow.metadata_id == parts.c.metadata_id)
                .order_by(TokenImpactRow.id)
            )
            if unless is not None:
                twin = parts.alias("twin")
                query = query.where(~sa.exists().where(twin.c.origin == unless, twin.c.old_id == parent))
            names = ["token_impact_id", "token_id", "position", "impact", "context_start", "context_end"]
            carried += connection.execute(sa.insert(TopTokenRow).from_select(names, query)).rowcount
    if total > carried:
        yield f"{total - carried} top tokens without token impacts or without their numbers: removed"


def _json_impacts(connection: Connection, old: Mapping[str, _OldTable]) -> Iterator[tuple[int, TokenImpact | None]]:
    """(training use, its token impact as JSON held it; None where that cannot be read), for each value that looks like one."""
    for name in ("training_metadata", *_IMPACT_TABLES):
        if name not in old:
            continue
        known = Base.metadata.tables["token_impacts" if name == OLD_IMPACT_TABLE else name].columns.keys()
        spare = [column.name for column in old[name].table.c if column.name not in known]
        if not spare:
            continue
        for row in old[name].rows(connection):
            metadata_id = _value(row, "id" if name == "training_metadata" else "metadata_id", None)
            for column in spare:
                value = _parsed(row._mapping[column])
                if isinstance(value, list) and column in ("critical_tokens", "top_tokens"):
                    value = {"critical_tokens": value, "total_tokens": _value(row, "total_tokens", 0)}
                if isinstance(value, dict) and ("critical_tokens" in value or "top_tokens" in value):
                    yield int(metadata_id or 0), _impact(value)


def _impact(value: Mapping[str, Any]) -> TokenImpact | None:
    tokens = value.get("critical_tokens", value.get("top_tokens"))
    if not isinstance(tokens, list):
        return None
    mended = []
    for token in tokens:
        if not isinstance(token, dict):
            return None
        names = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
        renamed = {names.get(name, name): item for name, item in token.items()}
        kept = ("token_id", "position", "impact", "context", "context_window", "context_start", "context_end")
        mended.append({name: renamed[name] for name in kept if renamed.get(name) is not None})
    try:
        impact = TokenImpact.parse(mended, entry="")
    except ExpungeError:
        return None
    total = value.get("total_tokens")
    return TokenImpact(max(impact.total_tokens, total if isinstance(total, int) else 0), impact.top_tokens)


def _impact_ids(connection: Connection, metadata_ids: set[int]) -> dict[int, int]:
    ids: dict[int, int] = {}
    wanted = sorted(metadata_ids)
    for start in range(0, len(wanted), 1000):
        some = TokenImpactRow.metadata_id.in_(wanted[start : start + 1000])
        query = sa.select(TokenImpactRow.metadata_id, TokenImpactRow.id).where(some)
        ids.update((row.metadata_id, row.id) for row in connection.execute(query))
    return ids


def _carry_same(connection: Connection, old: _OldTable, table: sa.Table) -> Iterator[str]:
    """Carry over a table that has not changed its meaning, where all that it needs is there."""
    carried: dict[str, Any] = {column.name: source for column in table.c if (source := old.column(column.name)) is not None}
    missing = [column.name for column in table.c if column.name not in carried and not column.nullable]
    if missing:
        if connection.scalar(sa.select(sa.func.count()).select_from(old.table)):
            yield f"table {table.name} lacks {', '.join(missing)}: left behind, in the backup alone"
        return
    conditions = []
    for key in table.foreign_key_constraints:
        child, parent = key.elements[0].parent, key.elements[0].column
        if (source := carried.get(child.name)) is None:
            continue
        there = sa.exists().where(parent == source).correlate(old.table)
        if child.nullable:
            carried[child.name] = sa.case((there, source), else_=None)
        else:
            conditions.append(there)
    query = sa.select(*carried.values()).select_from(old.table).where(*conditions)
    connection.execute(sa.insert(table).from_select(list(carried), query))


def _mend_rows(connection: Connection) -> Iterator[str]:
    token, impact = TopTokenRow, TokenImpactRow
    for orphans in orphan_conditions():
        column, table = orphans.column, orphans.column.table
        change = sa.update(table).values({column.name: None}) if column.nullable else sa.delete(table)
        if done := connection.execute(change.where(orphans.condition)).rowcount:
            yield f"{done} {orphans.what}: {'emptied' if column.nullable else 'removed'}"
    outside, window, infinite = token_faults()

    def of_tokens(fault: Any) -> Any:
        return token.id.in_(sa.select(token.id).join(impact, impact.id == token.token_impact_id).where(fault))

    for fault, what in ((outside, "at a position outside their sequence"), (infinite, "whose impact is no finite number")):
        if done := connection.execute(sa.delete(token).where(of_tokens(fault))).rowcount:
            yield f"{done} top tokens {what}: removed"
    total = sa.select(impact.total_tokens).where(impact.id == token.token_impact_id).scalar_subquery()
    start = sa.case(
        (token.context_start < 0, 0), (token.context_start > token.position, token.position), else_=token.context_start
    )
    end = sa.case(
        (token.context_end <= token.position, token.position + 1), (token.context_end > total, total), else_=token.context_end
    )
    widened = sa.update(token).where(of_tokens(window)).values(context_start=start, context_end=end)
    if done := connection.execute(widened).rowcount:
        yield f"{done} top tokens outside their own context window: window mended"
    place = sa.func.row_number().over(
        partition_by=(token.token_impact_id, token.position), order_by=(token.impact.desc(), token.id)
    )
    ranked = sa.select(token.id, place.label("place")).subquery()
    again = sa.delete(token).where(token.id.in_(sa.select(ranked.c.id).where(ranked.c.place > 1)))
    if done := connection.execute(again).rowcount:
        yield f"{done} top tokens recorded twice: the most impactful kept"


def _check(connection: Connection, database: Database) -> None:
    """Nothing is kept unless it is whole."""
    left = list(layout_faults(connection, database.version(connection)))
    left += [finding.what for finding in content_faults(connection) if finding.broken and finding.remedy.endswith("repair")]
    if left:
        raise ExpungeError(f"the repair does not mend this ledger ({left[0]}); nothing was changed", where=database.place)


def _value(row: Row[Any], name: str, default: Any) -> Any:
    found = row._mapping
    value = next((found[known] for known in (name, *_ALIASES.get(name, ())) if known in found), None)
    return default if value is None else value


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        value = datetime.fromtimestamp(value, UTC)
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return None
    return value


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)


def _chunks(items: Iterator[Any], size: int = _CHUNK) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk
