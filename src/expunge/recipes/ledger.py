"""Look into the ledger and file deletion requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError

if TYPE_CHECKING:
    from expunge.ledger import DeletionRequest, FoundToken, Status

DATABASE = "runs/ledger.db"


@dataclass(frozen=True, kw_only=True)
class LedgerStatusConfig:
    """How much is in the ledger, and how far every deletion request has come."""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""


@dataclass(frozen=True, kw_only=True)
class LedgerRequestConfig:
    """File a deletion request."""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    subject: tuple[str, ...] = ()
    """Who or what is to be forgotten; may be given several times."""
    subjects_from: Path | None = None
    """A JSON-lines file of examples: everybody in it is to be forgotten."""
    entry: tuple[str, ...] = ()
    """Ids of single entries to forget; may be given several times."""
    reason: str = ""
    """Why, for the record."""


@dataclass(frozen=True, kw_only=True)
class LedgerFindConfig:
    """Find the tokens that mattered most, and the training uses behind them."""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    subject: str | None = None
    """Only of this person or topic."""
    entry: str | None = None
    """Only of this entry."""
    token_id: tuple[int, ...] = ()
    """Only of these token ids; may be given several times."""
    run: int | None = None
    """Only of this run (its number in the ledger)."""
    limit: int = 20
    """At most so many, the most impactful first."""


def status(config: LedgerStatusConfig) -> tuple[Status, list[DeletionRequest]]:
    """Counts of the ledger, and its deletion requests."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        return ledger.status(), ledger.requests()


def request(config: LedgerRequestConfig) -> DeletionRequest:
    """File a deletion request, or find the open one that asks for the same."""
    from expunge.examples import read_examples
    from expunge.ledger import Ledger

    subjects = set(config.subject)
    if config.subjects_from is not None:
        subjects |= {example.subject for example in read_examples(config.subjects_from)}
    with Ledger.open(config.database, create=False) as ledger:
        return ledger.request_deletion(subjects=sorted(subjects), entry_ids=config.entry, reason=config.reason)


def find(config: LedgerFindConfig) -> list[FoundToken]:
    """The most impactful tokens that fit the question, the greatest first."""
    from expunge.ledger import Ledger

    if config.limit < 1:
        raise ExpungeError(f"--limit {config.limit} finds nothing", remedy="give at least 1")
    with Ledger.open(config.database, create=False) as ledger:
        return ledger.top_tokens(
            subject=config.subject,
            entry_id=config.entry,
            token_ids=config.token_id,
            run_id=config.run,
            limit=config.limit,
        )
