"""Deletion requests: filed, carried out (unlearned), judged (audited), closed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from expunge.errors import ExpungeError, suggestion
from expunge.files import fingerprint
from expunge.ledger.schema import AuditRow, Entry, RequestEntry, RequestRow, RequestSubject, RunRow, now, subject_key


@dataclass(frozen=True)
class DeletionRequest:
    """What was asked to be forgotten, and how far that has come."""

    id: int
    state: str
    """`open`, `unlearned` (a run carried it out), `audited` (its outcome was judged) or `closed`."""
    subjects: tuple[str, ...]
    """Everybody it names, as written; none once erased."""
    entry_ids: tuple[str, ...]
    """The entries it covers: those of its subjects when it was filed, and those named one by one."""
    reason: str
    run_id: int | None
    """The run that carried it out."""
    verdict: dict[str, Any] | None
    """Of the latest audit."""
    created_at: datetime
    updated_at: datetime
    erased_at: datetime | None
    """When the people were removed from the ledger itself."""


class AskedEntry(NamedTuple):
    """An entry that a deletion request would cover."""

    entry_id: str
    subject: str
    source_key: str
    """`file:line` it was first read from."""


class Asked(NamedTuple):
    """What a deletion request would cover."""

    people: dict[str, str]
    """Everybody it would name: as compared, and as written."""
    entries: list[AskedEntry]
    fingerprint: str
    request_id: int | None
    """The request, not closed yet, that asks for the same."""


def asked_for(connection: Connection, subjects: Collection[str], entry_ids: Collection[str]) -> Asked:
    """What a deletion request for these would cover.

    Raises:
        ExpungeError: it asks for nothing, or for a subject or an entry that is not in the ledger.
    """
    if isinstance(subjects, str) or isinstance(entry_ids, str):
        raise TypeError("subjects and entry_ids are collections of strings")
    if not subjects and not entry_ids:
        raise ExpungeError("a deletion request must name a subject or an entry", remedy="say who or what is to be forgotten")
    people = {subject_key(subject): subject for subject in sorted(subjects)}
    # One by one: there are few, and each needs its own message.
    covered: dict[str, AskedEntry] = {}
    known = sa.select(Entry.id, Entry.subject, Entry.source_key).order_by(Entry.id)
    for key, subject in people.items():
        found = connection.execute(known.where(Entry.subject_key == key)).all()
        if not found:
            raise _unknown_subject(connection, subject)
        covered |= {row.id: AskedEntry(*row) for row in found}
    wanted = sorted(set(entry_ids))
    for start in range(0, len(wanted), 500):
        chunk = wanted[start : start + 500]
        covered |= {row.id: AskedEntry(*row) for row in connection.execute(known.where(Entry.id.in_(chunk)))}
    if missing := [entry_id for entry_id in wanted if entry_id not in covered]:
        raise ExpungeError(f"there is no entry {missing[0]} in the ledger", remedy="find it with `expunge ledger find`")
    asked = fingerprint([sorted(people), wanted])
    same = sa.select(RequestRow.id).where(RequestRow.fingerprint == asked, RequestRow.state != "closed")
    request_id = connection.scalar(same.order_by(RequestRow.id).limit(1))
    return Asked(people, [covered[entry_id] for entry_id in sorted(covered)], asked, request_id)


def file_request(connection: Connection, subjects: Collection[str], entry_ids: Collection[str], reason: str) -> int:
    """File a deletion request, or find the one that is not closed yet and asks for the same.

    Raises:
        ExpungeError: see `asked_for`.
    """
    asked = asked_for(connection, subjects, entry_ids)
    if asked.request_id is not None:
        return asked.request_id
    moment = now()
    request_id = connection.execute(
        sa.insert(RequestRow).returning(RequestRow.id),
        [{"state": "open", "reason": reason, "fingerprint": asked.fingerprint, "created_at": moment, "updated_at": moment}],
    ).scalar_one()
    if asked.people:
        rows = [{"request_id": request_id, "subject_key": key, "subject": subject} for key, subject in asked.people.items()]
        connection.execute(sa.insert(RequestSubject), rows)
    covered = [{"request_id": request_id, "entry_id": entry.entry_id} for entry in asked.entries]
    connection.execute(sa.insert(RequestEntry), covered)
    return request_id


def mark_unlearned(connection: Connection, request_id: int, run_id: int) -> None:
    """Note the run that carried a request out; a request whose audit failed may be carried out again by another run.

    Raises:
        ExpungeError: no such request or run, or the request is closed.
    """
    request = _request(connection, request_id)
    if request.run_id == run_id and request.state != "open":
        return
    if request.state == "closed":
        raise _wrong(request, "it cannot be unlearned again", "file a new request")
    if connection.scalar(sa.select(RunRow.id).where(RunRow.id == run_id)) is None:
        raise ExpungeError(f"there is no run {run_id}", remedy="call start_run first")
    _update(connection, request_id, state="unlearned", run_id=run_id)


def mark_audited(connection: Connection, request_id: int, verdict: Mapping[str, Any]) -> None:
    """Note what an audit found; auditing again replaces the verdict that counts, the older one is kept.

    Raises:
        ExpungeError: no such request, or it is open or closed.
    """
    request = _request(connection, request_id)
    latest = latest_verdict(connection, request_id) if request.state in ("audited", "closed") else None
    if latest is not None and fingerprint(_without_acceptance(latest)) == fingerprint(dict(verdict)):
        return
    if request.state == "open":
        raise _wrong(request, "it cannot be audited", "unlearn it first")
    if request.state == "closed":
        raise _wrong(request, "it cannot be audited again", "file a new request")
    connection.execute(sa.insert(AuditRow), [{"request_id": request_id, "verdict": dict(verdict), "created_at": now()}])
    _update(connection, request_id, state="audited")


def close_request(connection: Connection, request_id: int, accept_failed: str) -> None:
    """Close an audited request; its entries count as removed from what is trained on.

    Args:
        connection: in a writing transaction.
        request_id: its number.
        accept_failed: why it is closed although its latest audit failed, to be kept with the verdict; empty: it is not.

    Raises:
        ExpungeError: no such request, it is not audited, or its latest audit failed and that is not accepted.
    """
    request = _request(connection, request_id)
    if request.state == "closed":
        return
    if request.state != "audited":
        step = "unlearn and audit it first" if request.state == "open" else "audit it first"
        raise _wrong(request, "it cannot be closed", step)
    verdict = latest_verdict(connection, request_id) or {}
    if failed := failed_claims(verdict):
        if not accept_failed.strip():
            what = f"its latest audit failed ({', '.join(failed)})"
            raise _wrong(request, what, "unlearn and audit again, or say with --accept-failed why it is closed all the same")
        accepted = {**verdict, ACCEPTED: accept_failed.strip()}
        connection.execute(sa.insert(AuditRow), [{"request_id": request_id, "verdict": accepted, "created_at": now()}])
    _update(connection, request_id, state="closed")
    covered = sa.select(RequestEntry.entry_id).where(RequestEntry.request_id == request_id)
    connection.execute(sa.update(Entry).where(Entry.id.in_(covered)).values(action="removed", updated_at=now()))


ACCEPTED = "accepted although failed"
"""Name in a verdict under which the reason is kept."""


def failed_claims(verdict: Mapping[str, Any]) -> list[str]:
    """The claims that an audit found not to hold: `fail`, or false."""
    return [claim for claim, ruling in verdict.items() if ruling is False or ruling == "fail"]


def _without_acceptance(verdict: Mapping[str, Any]) -> dict[str, Any]:
    return {claim: ruling for claim, ruling in verdict.items() if claim != ACCEPTED}


def read_requests(connection: Connection, request_id: int | None = None) -> list[DeletionRequest]:
    """All deletion requests, the oldest first, or one.

    Raises:
        ExpungeError: there is no such request.
    """
    if request_id is not None:
        _request(connection, request_id)
    query = sa.select(*RequestRow.__table__.c).order_by(RequestRow.id)
    rows = connection.execute(query if request_id is None else query.where(RequestRow.id == request_id)).all()
    return [
        DeletionRequest(
            id=row.id,
            state=row.state,
            subjects=tuple(
                connection.scalars(
                    sa.select(RequestSubject.subject)
                    .where(RequestSubject.request_id == row.id)
                    .order_by(RequestSubject.subject_key)
                )
            ),
            entry_ids=tuple(
                connection.scalars(
                    sa.select(RequestEntry.entry_id).where(RequestEntry.request_id == row.id).order_by(RequestEntry.entry_id)
                )
            ),
            reason=row.reason,
            run_id=row.run_id,
            verdict=latest_verdict(connection, row.id),
            created_at=row.created_at,
            updated_at=row.updated_at,
            erased_at=row.erased_at,
        )
        for row in rows
    ]


def latest_verdict(connection: Connection, request_id: int) -> dict[str, Any] | None:
    """The verdict of a request's latest audit."""
    query = sa.select(AuditRow.verdict).where(AuditRow.request_id == request_id).order_by(AuditRow.id.desc()).limit(1)
    return connection.scalar(query)


def _request(connection: Connection, request_id: int) -> Any:
    row = connection.execute(
        sa.select(RequestRow.id, RequestRow.state, RequestRow.run_id).where(RequestRow.id == request_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise ExpungeError(f"there is no deletion request {request_id}", remedy="see `expunge ledger status`")
    return row


def _update(connection: Connection, request_id: int, **values: Any) -> None:
    connection.execute(sa.update(RequestRow).where(RequestRow.id == request_id).values(updated_at=now(), **values))


def _wrong(request: Any, what: str, remedy: str) -> ExpungeError:
    return ExpungeError(f"deletion request {request.id} is {request.state}: {what}", remedy=remedy)


def _unknown_subject(connection: Connection, subject: str) -> ExpungeError:
    what = f'nobody called "{subject}" is in the ledger'
    known = connection.scalars(sa.select(Entry.subject).distinct().limit(10_000)).all()
    close = suggestion(subject, known) if known else ""
    return ExpungeError(what, remedy=close if close.startswith("did you") else "check the name, or add the entries first")
