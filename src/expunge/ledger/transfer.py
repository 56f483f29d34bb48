"""The whole ledger as a file, and back; and its token impacts as one JSON document.

The file is JSON lines: a header `{"format", "schema"}`; for each table `{"table", "columns"}` and then one list a row, parents
before children, in the order of their keys; at the end `{"end": rows}`, so that a file cut short is seen to be. The same ledger
gives the same bytes. Rows pass through a few thousand at a time: memory does not grow with them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.schema import AddConstraint, DropConstraint

from expunge.errors import ExpungeError
from expunge.files import written_atomically
from expunge.ledger.database import Database, continue_counting, insert_rows
from expunge.ledger.schema import (
    SCHEMA_VERSION,
    Base,
    Entry,
    RunRow,
    TokenImpactRow,
    TopTokenRow,
    TrainingMetadata,
    UtcDateTime,
)

_FORMAT = "expunge-ledger"
_CHUNK = 5000
_SAME_TABLES = ("0002", SCHEMA_VERSION)
"""Versions that differ in their indexes alone."""
_STREAMED = {"yield_per": _CHUNK}


def export_ledger(database: Database, path: Path) -> int:
    """Write everything to a JSON-lines file, atomically; returns the number of rows.

    Raises:
        ExpungeError: the file cannot be written.
    """
    rows = 0
    with database.reading() as connection, written_atomically(path) as stream:
        _write(stream, {"format": _FORMAT, "schema": SCHEMA_VERSION})
        for table in Base.metadata.sorted_tables:
            _write(stream, {"table": table.name, "columns": table.columns.keys()})
            query = sa.select(table).order_by(*table.primary_key.columns)
            for row in connection.execute(query, execution_options=_STREAMED):
                _write(stream, list(row))
                rows += 1
        _write(stream, {"end": rows})
    return rows


def import_ledger(database: Database, path: Path) -> int:
    """Fill an empty ledger from an exported file, in one transaction; returns the number of rows.

    Raises:
        ExpungeError: the ledger is not empty, or the file is not one that `export_ledger` wrote, whole and of this version.
    """
    with database.writing() as connection:
        for table in Base.metadata.sorted_tables:
            if connection.scalar(sa.select(sa.literal(1)).select_from(table).limit(1)):
                what = f"the ledger is not empty (it has {table.name})"
                raise ExpungeError(what, where=database.place, remedy="import into a new --database")
        # Made anew from all rows at once: sorted, and so written once; and the keys looked up together, not row by row.
        tokens = Base.metadata.tables[TopTokenRow.__tablename__]
        indexes = sorted(tokens.indexes, key=lambda index: str(index.name))
        for index in indexes:
            index.drop(connection)
        keys = [] if database.is_sqlite else sorted(tokens.foreign_key_constraints, key=lambda key: str(key.name))
        for key in keys:
            connection.execute(DropConstraint(key))
        try:
            rows = _Import(connection, path).run()
            for key in keys:
                connection.execute(AddConstraint(key))
        except sa.exc.IntegrityError as error:
            words = " ".join(str(error.orig).split())
            what = f"its rows contradict each other ({words[:200]})"
            raise ExpungeError(what, where=path, remedy="export the ledger again") from None
        for index in indexes:
            index.create(connection)
        continue_counting(connection)
    database.refresh_statistics()
    return rows


class _Import:
    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self._line = 0

    def run(self) -> int:
        header = True
        rows, ended = 0, False
        table: sa.Table | None = None
        for is_row, values in itertools.groupby(self._values(), key=lambda value: isinstance(value, list)):
            if is_row:
                if table is None:
                    raise self._error("a row before its table")
                rows += self._insert(table, values)
                continue
            for value in values:
                if header:
                    self._check_header(value)
                    header = False
                elif ended:
                    raise self._error("something after the end")
                elif "end" in value:
                    if value["end"] != rows:
                        raise self._error(f"{value['end']} rows were exported, {rows} are here")
                    ended = True
                else:
                    table = self._table(value)
        if not ended:
            raise self._error("the file is cut short")
        return rows

    def _values(self) -> Iterator[Any]:
        try:
            with self._path.open(encoding="utf-8") as stream:
                for self._line, text in enumerate(stream, 1):
                    value = json.loads(text)
                    if not isinstance(value, dict | list):
                        raise self._error("a line that is neither a row nor a heading")
                    yield value
        except OSError as error:
            raise ExpungeError(f"cannot be read ({error.strerror})", where=self._path, remedy="check the path") from None
        except UnicodeDecodeError:
            raise ExpungeError("is not UTF-8", where=self._path, remedy="export the ledger again") from None
        except json.JSONDecodeError:
            raise self._error("broken JSON") from None

    def _check_header(self, value: dict[str, Any]) -> None:
        if value.get("format") != _FORMAT:
            raise self._error("is not an exported ledger")
        if value.get("schema") not in _SAME_TABLES:
            what = f"is of schema {value.get('schema')}, this expunge writes {SCHEMA_VERSION}"
            raise self._error(what, "import it with the expunge that wrote it, and let this one open that ledger")

    def _table(self, value: dict[str, Any]) -> sa.Table:
        table = Base.metadata.tables.get(str(value.get("table")))
        if table is None or value.get("columns") != table.columns.keys():
            raise self._error(f"a table that is not known ({value.get('table')})")
        return table

    def _insert(self, table: sa.Table, values: Iterator[Any]) -> int:
        columns = list(table.columns)
        times = [i for i, column in enumerate(columns) if isinstance(column.type, UtcDateTime)]
        # The types of a row, taken together, are few: each is judged once.
        judged: set[tuple[type, ...]] = set()
        plain = not times and not any(isinstance(column.type, sa.JSON | sa.Boolean) for column in columns)
        names = table.columns.keys()
        rows = 0
        while chunk := list(itertools.islice(self._checked(columns, values, judged), _CHUNK)):
            if plain:
                insert_rows(self._connection, table.name, names, chunk)
            else:
                for row in chunk:
                    for i in times:
                        row[i] = None if row[i] is None else self._moment(row[i])
                self._connection.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in chunk])
            rows += len(chunk)
        return rows

    def _checked(
        self, columns: list[sa.Column[Any]], values: Iterator[Any], judged: set[tuple[type, ...]]
    ) -> Iterator[list[Any]]:
        for row in values:
            types = tuple(map(type, row))
            if types not in judged:
                if len(row) != len(columns):
                    raise self._error(f"a row of {len(row)} values for {len(columns)} columns")
                for column, value in zip(columns, row, strict=True):
                    if not _fits(column, value):
                        raise self._error(f'"{column.name}" cannot be {json.dumps(value)[:60]}')
                judged.add(types)
            yield row

    def _moment(self, value: str) -> datetime:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise self._error(f"{value!r} is no time") from None

    def _error(self, what: str, remedy: str = "export the ledger again") -> ExpungeError:
        return ExpungeError(what, where=self._path, line=self._line or None, remedy=remedy)


def _fits(column: sa.Column[Any], value: Any) -> bool:
    if value is None:
        return bool(column.nullable)
    if isinstance(column.type, UtcDateTime):
        return isinstance(value, str)
    wanted = dict if isinstance(column.type, sa.JSON) else column.type.python_type
    if wanted is float:
        return type(value) in (int, float)
    return type(value) is wanted


def export_impacts(database: Database, path: Path) -> int:
    """Write all token impacts as one JSON document, atomically; returns the number of training uses in it.

    `{"training_uses": [{entry_id, subject, source_key, run, impact_estimator, run_id, model_checkpoint_hash, average_loss,
    relative_loss, timestamp, total_tokens, top_tokens: [{token_id, position, impact, context_start, context_end}]}]}`, the
    top tokens by falling impact.

    Raises:
        ExpungeError: the file cannot be written.
    """
    use_columns = (
        TokenImpactRow.id,
        Entry.id.label("entry_id"),
        Entry.subject,
        Entry.source_key,
        RunRow.name.label("run"),
        RunRow.impact_estimator,
        TrainingMetadata.run_id,
        TrainingMetadata.model_checkpoint_hash,
        TrainingMetadata.average_loss,
        TrainingMetadata.relative_loss,
        TrainingMetadata.timestamp,
        TokenImpactRow.total_tokens,
    )
    uses = (
        sa.select(*use_columns)
        .select_from(TokenImpactRow)
        .join(TrainingMetadata, TrainingMetadata.id == TokenImpactRow.metadata_id)
        .join(Entry, Entry.id == TrainingMetadata.entry_id)
        .join(RunRow, RunRow.id == TrainingMetadata.run_id)
        .order_by(TokenImpactRow.id)
    )
    token = TopTokenRow
    token_columns = (token.token_id, token.position, token.impact, token.context_start, token.context_end)
    # In the order of an index, beside the uses in theirs: neither is sorted, neither held whole.
    tokens = sa.select(token.token_impact_id, *token_columns).order_by(token.token_impact_id)
    written = 0
    with database.reading() as connection, written_atomically(path) as stream:
        stream.write('{"training_uses": [')
        found = connection.execute(tokens, execution_options=_STREAMED)
        groups = itertools.groupby(found, key=lambda row: row.token_impact_id)
        group = next(groups, None)
        for use in connection.execute(uses, execution_options=_STREAMED):
            fields = use._asdict()
            impact_id = fields.pop("id")
            top: list[dict[str, Any]] = []
            if group is not None and group[0] == impact_id:
                names = [column.key for column in token_columns]
                top = sorted((dict(zip(names, row[1:], strict=True)) for row in group[1]), key=_by_falling_impact)
                group = next(groups, None)
            stream.write(",\n" if written else "\n")
            # Made whole before it is written: many times faster than in parts, and it is small.
            stream.write(json.dumps(fields | {"top_tokens": top}, ensure_ascii=False, allow_nan=False, default=_as_text))
            written += 1
        stream.write("\n]}\n")
    return written


def _by_falling_impact(token: dict[str, Any]) -> tuple[float, int]:
    return -token["impact"], token["position"]


def _write(stream: Any, value: Any) -> None:
    stream.write(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_text) + "\n")


def _as_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
