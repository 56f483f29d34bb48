"""The ledger: entries, runs, training uses, token impacts and deletion requests, as one object."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from expunge.examples import Example
from expunge.files import fingerprint
from expunge.ledger import erasure, recorded, requests, transfer
from expunge.ledger.database import BUSY_SECONDS, Database
from expunge.ledger.recorder import Recorder
from expunge.ledger.requests import Asked, DeletionRequest
from expunge.ledger.schema import (
    SCHEMA_VERSION,
    STATES,
    Entry,
    RequestRow,
    RunRow,
    TokenImpactRow,
    TopTokenRow,
    TrainingMetadata,
    now,
    subject_key,
)


class Added(NamedTuple):
    """What `add_entries` did."""

    added: int
    updated: int
    unchanged: int


class FoundToken(NamedTuple):
    """One top token and the training use behind it."""

    subject: str
    entry_id: str
    source_key: str
    """`file:line` the entry was first read from."""
    run: str
    """Name of the run."""
    run_id: int
    token_id: int
    position: int
    impact: float
    context_start: int
    context_end: int
    average_loss: float | None
    """Of the example in that run, nats."""
    relative_loss: float | None
    """That over the run's running mean of it; above 1: harder than what came before."""
    timestamp: datetime
    """When the example was recorded in that run."""
    checkpoint: str
    """Hash of the model that was trained."""
    impact_estimator: str | None
    """What estimated the impacts of that run; None where unknown."""


class RecordedRun(NamedTuple):
    """A run that the ledger knows."""

    id: int
    name: str
    path: Path
    """Its directory, when it was recorded."""


class Known(NamedTuple):
    """Which of some entries the ledger has."""

    entry_ids: frozenset[str]
    others: int
    """How many more entries it has."""


@dataclass(frozen=True)
class Status:
    """How much is in the ledger."""

    place: str
    schema: str
    entries: int
    subjects: int
    runs: int
    training_uses: int
    token_impacts: int
    top_tokens: int
    coverage: float
    """Share of training uses that have token impacts; 0 where there are no uses."""
    requests: dict[str, int]
    """Deletion requests in each state."""
    erased: int
    """Requests whose people were also removed from the ledger."""


class Ledger:
    """The provenance database. Open it with `Ledger.open`, use it in a `with` block or `close` it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, place: str | Path, *, create: bool = True, busy_seconds: float = BUSY_SECONDS) -> Ledger:
        """Open a ledger, making it or bringing it to the present schema where needed.

        Args:
            place: path of an SQLite file, or a URL: `sqlite:///path`, `postgresql://user@host/name`.
            create: make an SQLite file that is not there.
            busy_seconds: how long to wait while another process writes.

        Raises:
            ExpungeError: the place is a directory, no database, another program's database, a ledger of a newer or much older
                version, locked, read-only, or cannot be reached.
        """
        database = Database(place, create=create, busy_seconds=busy_seconds)
        try:
            database.migrate()
        except BaseException:
            database.close()
            raise
        return cls(database)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def refuse_read_only(self) -> None:
        """Find out now, not after hours of work, that nothing can be written here.

        Raises:
            ExpungeError: the ledger is read-only, or locked by another process.
        """
        with self._database.writing() as connection:
            connection.execute(sa.delete(RunRow).where(sa.false()))

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @property
    def place(self) -> str:
        """The path, or the URL without its password."""
        return self._database.place

    def impacts_of(
        self, entry_ids: Collection[str], *, run_id: int | None = None, path: Path | None = None
    ) -> recorded.RecordedImpacts:
        """The token impacts of entries in one run.

        Args:
            entry_ids: `Example.id` of each.
            run_id: the run; where None, the one in the directory `path` if it knows any of them, else the latest that did not
                unlearn.
            path: run directory of the model whose impacts are wanted.

        Raises:
            ExpungeError: no such run recorded impacts of any of these entries.
        """
        return recorded.impacts_of(self._database, entry_ids, run_id=run_id, path=path)

    def add_entries(self, examples: Iterable[Example], *, source: str) -> Added:
        """Enter examples, by their id; one already there counts as updated when its content hash has changed.

        Args:
            examples: read one by one; all enter in one transaction.
            source: name of what they come from, such as the file's name; with the line, it says where an entry was first seen.
        """
        counts = {"added": 0, "updated": 0, "unchanged": 0}
        with self._database.writing() as connection:
            for chunk in _chunks(examples, 1000):
                rows = {example.id: _entry_row(example, source) for example in chunk}
                for action, some in _sorted_out(connection, rows).items():
                    counts[action] += len(some)
                    if action != "unchanged" and some:
                        _upsert_entries(connection, some)
        return Added(**counts)

    def start_run(self, *, name: str, path: Path | str, checkpoint: str, impact_estimator: str | None = None) -> int:
        """The id of a run; the same path and checkpoint make the same run, so that a resumed run goes on with its rows.

        Args:
            name: for people, such as `finetune target`.
            path: the run directory.
            checkpoint: fingerprint of the settings and of the model that the run started from.
            impact_estimator: what estimates the token impacts that will be recorded; None where none will.
        """
        row = {
            "name": name,
            "path": os.path.abspath(path),  # noqa: PTH100
            "checkpoint": checkpoint,
            "started_at": now(),
            "impact_estimator": impact_estimator,
        }
        with self._database.writing() as connection:
            connection.execute(_insert_for(connection)(RunRow).on_conflict_do_nothing(), [row])
            query = sa.select(RunRow.id).where(RunRow.path == row["path"], RunRow.checkpoint == checkpoint)
            return connection.execute(query).scalar_one()

    def recorder(self, run_id: int, *, checkpoint: str | None = None, buffer_rows: int = 250_000) -> Recorder:
        """A recorder of training uses in a run; see `Recorder`.

        Args:
            run_id: from `start_run`.
            checkpoint: hash of the model trained; that of the run where None.
            buffer_rows: rows held in memory before they are written.

        Raises:
            ExpungeError: there is no such run.
        """
        return Recorder(self._database, run_id, checkpoint, buffer_rows)

    def request_deletion(
        self, *, subjects: Collection[str] = (), entry_ids: Collection[str] = (), reason: str = ""
    ) -> DeletionRequest:
        """File a deletion request; the same request while one is not closed yet is that one.

        Args:
            subjects: people (or topics) to forget with all their entries; case and spacing do not matter.
            entry_ids: single entries to forget.
            reason: why; kept until the request is erased.

        Raises:
            ExpungeError: nothing is named, or a subject or entry is not in the ledger.
        """
        with self._database.writing() as connection:
            request_id = requests.file_request(connection, subjects, entry_ids, reason)
            return requests.read_requests(connection, request_id)[0]

    def preview_deletion(self, *, subjects: Collection[str] = (), entry_ids: Collection[str] = ()) -> Asked:
        """What `request_deletion` would cover, without filing it.

        Raises:
            ExpungeError: as there.
        """
        with self._database.reading() as connection:
            return requests.asked_for(connection, subjects, entry_ids)

    def requests_covered_by(self, entry_ids: Iterable[str]) -> list[DeletionRequest]:
        """The deletion requests, not closed, all of whose entries are among these: who forgets these has carried them out."""
        those = set(entry_ids)
        with self._database.reading() as connection:
            unfinished = [each for each in requests.read_requests(connection) if each.state != "closed"]
        return [request for request in unfinished if request.entry_ids and those.issuperset(request.entry_ids)]

    def mark_unlearned(self, request_id: int, *, run: int) -> DeletionRequest:
        """Note the run that carried out a request: open → unlearned. Saying the same again changes nothing.

        Raises:
            ExpungeError: no such request or run, or the request is closed.
        """
        with self._database.writing() as connection:
            requests.mark_unlearned(connection, request_id, run)
            return requests.read_requests(connection, request_id)[0]

    def mark_audited(self, request_id: int, *, verdict: Mapping[str, Any]) -> DeletionRequest:
        """Note what the audit found: unlearned → audited. Saying the same again changes nothing.

        Args:
            verdict: JSON-like; without names of people.

        Raises:
            ExpungeError: no such request, or it is open or closed.
        """
        with self._database.writing() as connection:
            requests.mark_audited(connection, request_id, verdict)
            return requests.read_requests(connection, request_id)[0]

    def close_request(self, request_id: int, *, accept_failed: str = "") -> DeletionRequest:
        """Close an audited request: audited → closed, its entries count as removed. Closing again changes nothing.

        Args:
            request_id: its number.
            accept_failed: why it is closed although the latest audit failed; kept with the verdict.

        Raises:
            ExpungeError: no such request, it is not audited, or its latest audit failed and that is not accepted.
        """
        with self._database.writing() as connection:
            requests.close_request(connection, request_id, accept_failed)
            return requests.read_requests(connection, request_id)[0]

    def erase(self, request_id: int, *, dry_run: bool = False) -> erasure.Erasure:
        """Remove the people of a closed request from the ledger itself and leave a hashed tombstone; see `erasure.erase`."""
        return erasure.erase(self._database, request_id, dry_run=dry_run)

    def erased_at(self, subject: str) -> datetime | None:
        """When this person was erased from the ledger; None when never. Takes some hundredths of a second, on purpose."""
        with self._database.reading() as connection:
            return erasure.erased_at(connection, subject)

    def export(self, path: Path) -> int:
        """Write everything to a JSON-lines file; returns the number of rows. See `transfer.export_ledger`."""
        return transfer.export_ledger(self._database, path)

    def export_impacts(self, path: Path) -> int:
        """Write all token impacts as one JSON document; returns the number of training uses. See `transfer.export_impacts`."""
        return transfer.export_impacts(self._database, path)

    def fill(self, path: Path) -> int:
        """Import an exported file into this ledger, which must be empty; returns the number of rows."""
        return transfer.import_ledger(self._database, path)

    def requests(self) -> list[DeletionRequest]:
        """All deletion requests, the oldest first."""
        with self._database.reading() as connection:
            return requests.read_requests(connection)

    def status(self) -> Status:
        """How much of everything is in the ledger."""
        with self._database.reading() as connection:
            uses, impacts = _count(connection, TrainingMetadata), _count(connection, TokenImpactRow)
            states = connection.execute(sa.select(RequestRow.state, sa.func.count()).group_by(RequestRow.state))
            in_state = {row.state: row[1] for row in states}
            erased = sa.select(sa.func.count()).select_from(RequestRow).where(RequestRow.erased_at.is_not(None))
            return Status(
                place=self.place,
                schema=SCHEMA_VERSION,
                entries=_count(connection, Entry),
                subjects=connection.scalar(sa.select(sa.func.count(Entry.subject_key.distinct()))) or 0,
                runs=_count(connection, RunRow),
                training_uses=uses,
                token_impacts=impacts,
                top_tokens=_count(connection, TopTokenRow),
                coverage=impacts / uses if uses else 0.0,
                requests={state: in_state.get(state, 0) for state in STATES},
                erased=connection.scalar(erased) or 0,
            )

    def runs(self) -> list[RecordedRun]:
        """All runs, the newest first."""
        query = sa.select(RunRow.id, RunRow.name, RunRow.path).order_by(RunRow.id.desc())
        with self._database.reading() as connection:
            return [RecordedRun(row.id, row.name, Path(row.path)) for row in connection.execute(query)]

    def known_entries(self, entry_ids: Iterable[str]) -> Known:
        """Which of these entries are in the ledger."""
        wanted = sorted(set(entry_ids))
        with self._database.reading() as connection:
            found = frozenset(
                entry_id
                for chunk in _chunks(wanted, _MANY)
                for entry_id in connection.scalars(sa.select(Entry.id).where(Entry.id.in_(chunk)))
            )
            return Known(found, _count(connection, Entry) - len(found))

    def entries_with(self, sequences: Iterable[Sequence[int]]) -> list[str]:
        """The ids of entries that have one of these token sequences, token after token, among the top tokens of some run."""
        with self._database.reading() as connection:
            found = {
                entry_id
                for sequence in {tuple(sequence) for sequence in sequences}
                for entry_id in connection.scalars(_entries_with(connection, sequence))
            }
        return sorted(found)

    def top_tokens(
        self,
        *,
        subject: str | None = None,
        entry_ids: Collection[str] | None = None,
        token_ids: Collection[int] = (),
        run_id: int | None = None,
        limit: int | None = 20,
    ) -> list[FoundToken]:
        """The most impactful tokens, the greatest first, and the training uses behind them.

        Args:
            subject: only of this person or topic; case and spacing do not matter.
            entry_ids: only of these entries.
            token_ids: only of these tokens.
            run_id: only of this run; impacts of runs with different estimators do not compare.
            limit: at most so many; None for all.
        """
        query = (
            sa.select(
                Entry.subject,
                Entry.id,
                Entry.source_key,
                RunRow.name,
                RunRow.id,
                TopTokenRow.token_id,
                TopTokenRow.position,
                TopTokenRow.impact,
                TopTokenRow.context_start,
                TopTokenRow.context_end,
                TrainingMetadata.average_loss,
                TrainingMetadata.relative_loss,
                TrainingMetadata.timestamp,
                TrainingMetadata.model_checkpoint_hash,
                RunRow.impact_estimator,
            )
            .select_from(TopTokenRow)
            .join(TokenImpactRow, TokenImpactRow.id == TopTokenRow.token_impact_id)
            .join(TrainingMetadata, TrainingMetadata.id == TokenImpactRow.metadata_id)
            .join(Entry, Entry.id == TrainingMetadata.entry_id)
            .join(RunRow, RunRow.id == TrainingMetadata.run_id)
            .order_by(TopTokenRow.impact.desc(), TopTokenRow.id)
            .limit(limit)
        )
        if subject is not None:
            query = query.where(Entry.subject_key == subject_key(subject))
        if run_id is not None:
            query = query.where(TrainingMetadata.run_id == run_id)
        queries = [query]
        if token_ids:
            query = query.where(TopTokenRow.token_id.in_(token_ids))
            queries = [query]
            if limit is not None and subject is None and entry_ids is None and run_id is None:
                # The greatest first, and only then who they are of: a frequent token is in very many uses.
                of_these = sa.select(TopTokenRow.id).where(TopTokenRow.token_id.in_(token_ids))
                greatest = of_these.order_by(TopTokenRow.impact.desc(), TopTokenRow.id).limit(limit)
                queries = [query.where(TopTokenRow.id.in_(greatest))]
        if entry_ids is not None:
            queries = [queries[0].where(Entry.id.in_(chunk)) for chunk in _chunks(sorted(set(entry_ids)), _MANY)]
        with self._database.reading() as connection:
            found = [FoundToken._make(row) for each in queries for row in connection.execute(each)]
        return heapq.nlargest(len(found) if limit is None else limit, found, key=lambda token: token.impact)


_MANY = 500
"""So many values are asked for in one statement."""
_Item = TypeVar("_Item")


def _entries_with(connection: Connection, sequence: tuple[int, ...]) -> sa.Select[Any]:
    # From the rarest token on: its places are read off an index, and the others looked for beside each.
    rows = [sa.select(sa.func.count()).where(TopTokenRow.token_id == token) for token in sequence]
    counts = [connection.scalar(count) or 0 for count in rows]
    rarest = counts.index(min(counts))
    query = (
        sa.select(TrainingMetadata.entry_id)
        .distinct()
        .select_from(TopTokenRow)
        .join(TokenImpactRow, TokenImpactRow.id == TopTokenRow.token_impact_id)
        .join(TrainingMetadata, TrainingMetadata.id == TokenImpactRow.metadata_id)
        .where(TopTokenRow.token_id == sequence[rarest])
    )
    for i, token in enumerate(sequence):
        if i != rarest:
            beside = aliased(TopTokenRow)
            query = query.where(
                sa.exists().where(
                    beside.token_impact_id == TopTokenRow.token_impact_id,
                    beside.position == TopTokenRow.position + (i - rarest),
                    # Not a bare column: the database would look the token up in all uses, instead of in this one.
                    beside.token_id + 0 == token,
                )
            )
    return query


def _count(connection: Connection, table: type[Any]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def _entry_row(example: Example, source: str) -> dict[str, Any]:
    line = example.where.rpartition(":")[2]
    moment = now()
    return {
        "id": example.id,
        "source_key": f"{source}:{line}" if line.isdecimal() else source,
        "content_hash": fingerprint(example.as_row()),
        "subject": example.subject,
        "subject_key": subject_key(example.subject),
        "revision": 1,
        "action": "added",
        "added_at": moment,
        "updated_at": moment,
    }


def _sorted_out(connection: Connection, rows: Mapping[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they are to the ledger: added, updated, unchanged."""
    query = sa.select(Entry.id, Entry.content_hash, Entry.action).where(Entry.id.in_(list(rows)))
    there = {entry_id: (content_hash, action) for entry_id, content_hash, action in connection.execute(query)}
    sorted_out: dict[str, list[dict[str, Any]]] = {"added": [], "updated": [], "unchanged": []}
    for entry_id, row in rows.items():
        content_hash, action = there.get(entry_id, (None, None))
        same = content_hash == row["content_hash"] and action != "removed"
        sorted_out["added" if content_hash is None else "unchanged" if same else "updated"].append(row)
    return sorted_out


def _upsert_entries(connection: Connection, rows: list[dict[str, Any]]) -> None:
    insert = _insert_for(connection)(Entry)
    statement = insert.on_conflict_do_update(
        index_elements=["id"],
        set_={
            **{name: insert.excluded[name] for name in ("source_key", "content_hash", "subject", "subject_key", "updated_at")},
            "revision": Entry.revision + 1,
            "action": "updated",
        },
        where=sa.or_(Entry.content_hash != insert.excluded.content_hash, Entry.action == "removed"),
    )
    connection.execute(statement, rows)


def _insert_for(connection: Connection) -> Any:
    return sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert


def _chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
