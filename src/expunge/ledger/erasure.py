"""Forgetting in the register of the forgotten: a closed request's people leave the ledger, and a hashed tombstone stays.

The tombstone answers "was this person erased?" to whoever can say the name, and nobody else: it holds the scrypt of the name
with the ledger's own salt. What this cannot reach: exported files, backups that `repair` made, the run directories, and the
logs of a PostgreSQL server.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from expunge.errors import ExpungeError
from expunge.ledger.database import Database
from expunge.ledger.schema import AuditRow, Entry, RequestEntry, RequestRow, RequestSubject, RunRow, Tombstone, now, subject_key

_ERASED = "[erased]"


class Erasure(NamedTuple):
    """What `erase` removed."""

    request_id: int
    subjects: int
    entries: int
    """With them went their training uses, token impacts and top tokens."""


def erase(database: Database, request_id: int, *, dry_run: bool = False) -> Erasure:
    """Remove the people and entries of a closed deletion request from the ledger, and from the bytes of its file.

    Doing it again is harmless, and needed after it was interrupted.

    Args:
        database: the ledger.
        request_id: the number of the request.
        dry_run: only say what would be removed: it is removed, counted, and undone.

    Raises:
        ExpungeError: there is no such request, it is not closed, another request for one of its people is not, somebody has
            entries that came after it, or another process keeps the file from being cleaned.
    """
    with database.writing() as connection:
        row = connection.execute(sa.select(*RequestRow.__table__.c).where(RequestRow.id == request_id)).one_or_none()
        if row is None:
            raise ExpungeError(f"there is no deletion request {request_id}", remedy="see `expunge ledger status`")
        if row.erased_at is None:
            if row.state != "closed":
                what = f"deletion request {request_id} is {row.state}: its people cannot be erased yet"
                raise ExpungeError(what, remedy="unlearn, audit and close it first")
            _erase(connection, request_id)
        facts = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(Tombstone.entries), 0))
        tombstones, entries = connection.execute(facts.where(Tombstone.request_id == request_id)).one()
        named = sa.select(sa.func.count()).where(Tombstone.request_id == request_id, Tombstone.subject_hash == "")
        subjects = tombstones - (connection.scalar(named) or 0)
        if dry_run:
            connection.rollback()
    if not dry_run:
        database.sweep()
    return Erasure(request_id, subjects, int(entries))


def erased_at(connection: Connection, subject: str) -> datetime | None:
    """When a person was erased from this ledger; None when never."""
    salt = connection.scalar(sa.select(Tombstone.salt).limit(1))
    if salt is None:
        return None
    query = sa.select(Tombstone.erased_at).where(Tombstone.subject_hash == _hash(subject_key(subject), salt))
    return connection.scalar(query.order_by(Tombstone.id.desc()).limit(1))


def _erase(connection: Connection, request_id: int) -> None:
    keys = connection.scalars(sa.select(RequestSubject.subject_key).where(RequestSubject.request_id == request_id)).all()
    covered = sa.select(RequestEntry.entry_id).where(RequestEntry.request_id == request_id)
    _refuse_unfinished(connection, request_id, keys, covered)
    salt = connection.scalar(sa.select(Tombstone.salt).limit(1)) or secrets.token_hex(16)
    moment = now()
    stones = []
    names: set[str] = set()
    for key in keys:
        entries = sa.select(sa.func.count()).where(Entry.subject_key == key)
        stones.append((_hash(key, salt), connection.scalar(entries) or 0))
        names.update(connection.scalars(sa.select(Entry.subject).distinct().where(Entry.subject_key == key)))
        names.update(connection.scalars(sa.select(RequestSubject.subject).where(RequestSubject.subject_key == key)))
    alone = sa.select(sa.func.count()).where(Entry.id.in_(covered), Entry.subject_key.not_in(keys))
    if single := connection.scalar(alone) or 0:
        # Entries named one by one are of people who otherwise stay: there is nobody to remember as erased.
        stones.append(("", single))
    rows = [
        {"request_id": request_id, "salt": salt, "subject_hash": digest, "entries": entries, "erased_at": moment}
        for digest, entries in stones
    ]
    if rows:
        connection.execute(sa.insert(Tombstone), rows)
    naming = sa.select(RequestSubject.request_id).where(RequestSubject.subject_key.in_(keys))
    touched = sa.or_(RequestRow.id == request_id, RequestRow.id.in_(naming))
    # A reason is written by hand, and the fingerprint can be computed from a guessed name.
    connection.execute(sa.update(RequestRow).where(touched).values(reason="", fingerprint=None))
    connection.execute(sa.delete(RequestSubject).where(RequestSubject.subject_key.in_(keys)))
    connection.execute(sa.delete(Entry).where(Entry.id.in_(covered)))
    connection.execute(sa.update(RequestRow).where(RequestRow.id == request_id).values(erased_at=moment, updated_at=moment))
    for name in sorted(names, key=len, reverse=True):
        _blot_out(connection, name)


def _refuse_unfinished(connection: Connection, request_id: int, keys: Collection[str], covered: sa.Select[Any]) -> None:
    others = (
        sa.select(RequestRow.id)
        .join(RequestSubject, RequestSubject.request_id == RequestRow.id)
        .where(RequestSubject.subject_key.in_(keys), RequestRow.state != "closed")
    )
    if (other := connection.scalar(others.order_by(RequestRow.id).limit(1))) is not None:
        what = f"deletion request {other}, for the same person, is not closed"
        raise ExpungeError(what, remedy="finish that one first")
    later = sa.select(sa.func.count()).where(Entry.subject_key.in_(keys), Entry.id.not_in(covered))
    if count := connection.scalar(later):
        what = f"{count} entries about people of deletion request {request_id} came after it, and were not unlearned with it"
        raise ExpungeError(what, remedy="file a new request for them")


def _blot_out(connection: Connection, name: str) -> None:
    """Replace a name wherever free text may hold it: runs, reasons, sources, verdicts."""
    # Word by word, whatever stands between: a file of Ana López may be called ana_lópez.jsonl.
    words = re.findall(r"[^\W_]+", name) or [name]
    pattern = re.compile(r"(?<![^\W_])" + r"[\W_]+".join(map(re.escape, words)) + r"(?![^\W_])", re.IGNORECASE)
    # The database narrows the search by letters whose case SQLite knows.
    narrow = max(re.findall(r"[A-Za-z0-9]+", name), key=len, default="")
    for column in (RunRow.name, RunRow.path, RequestRow.reason, Entry.source_key):
        table = column.class_
        for row in connection.execute(sa.select(table.id, column).where(column.icontains(narrow, autoescape=True))).all():
            if (blotted := pattern.sub(_ERASED, row[1])) != row[1]:
                connection.execute(sa.update(table).where(table.id == row[0]).values({column.key: blotted}))
    for audit_id, verdict in connection.execute(sa.select(AuditRow.id, AuditRow.verdict)).all():
        if (blotted_verdict := _blotted(verdict, pattern)) != verdict:
            connection.execute(sa.update(AuditRow).where(AuditRow.id == audit_id).values(verdict=blotted_verdict))


def _blotted(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(_ERASED, value)
    if isinstance(value, dict):
        return {_blotted(key, pattern): _blotted(item, pattern) for key, item in value.items()}
    return [_blotted(item, pattern) for item in value] if isinstance(value, list) else value


def _hash(key: str, salt: str) -> str:
    return hashlib.scrypt(key.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32).hex()
