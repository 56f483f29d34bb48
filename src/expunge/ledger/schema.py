"""The tables of the ledger.

```
entries ──< training_metadata ──1 token_impacts ──< top_tokens
   │               └──> runs <── deletion_requests ──< audits
   └──< request_entries >── deletion_requests ──< request_subjects, tombstones
```
The ledger holds no training text: an entry is known by its id, its content hash and its place in the source. What builds
these tables in a database is `migrations/`; a test holds the two to be the same.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = "0003"
"""The Alembic revision these tables are at."""

ACTIONS = ("added", "updated", "removed")
STATES = ("open", "unlearned", "audited", "closed")

BigId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up only a column that is called INTEGER; its integers have 64 bits all the same."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always in UTC: SQLite keeps no time zone of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can find it again."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(word) for word in words)})", name=column)


class Entry(Base):
    """One training item."""

    __tablename__ = "entries"
    __table_args__ = (_one_of("action", ACTIONS), Index(None, "subject_key"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """`Example.id`."""
    source_key: Mapped[str] = mapped_column(Text)
    """Where this content was first seen: `file:line`."""
    content_hash: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the whole row, metadata included."""
    subject: Mapped[str] = mapped_column(Text)
    subject_key: Mapped[str] = mapped_column(Text)
    """The subject as it is compared: see `subject_key`."""
    revision: Mapped[int]
    """1 when added; one more whenever the content hash changes."""
    action: Mapped[str] = mapped_column(String(16))
    added_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RunRow(Base):
    """A fine-tuning or unlearning run."""

    __tablename__ = "runs"
    __table_args__ = (UniqueConstraint("path", "checkpoint"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    checkpoint: Mapped[str] = mapped_column(String(128))
    """Fingerprint of the run: of its settings and of the model it started from."""
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    impact_estimator: Mapped[str | None] = mapped_column(String(64))
    """What estimated its token impacts, such as `gradient`; null where unknown. Different ones do not compare."""


class TrainingMetadata(Base):
    """One use of an entry in a run."""

    __tablename__ = "training_metadata"
    __table_args__ = (UniqueConstraint("entry_id", "run_id"), Index(None, "run_id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    entry_id: Mapped[str] = mapped_column(ForeignKey("entries.id", ondelete="CASCADE"))
    run_id: Mapped[int] = mapped_column(BigId, ForeignKey("runs.id", ondelete="CASCADE"))
    model_checkpoint_hash: Mapped[str] = mapped_column(String(128))
    average_loss: Mapped[float | None] = mapped_column(Double)
    """Mean loss of the labelled tokens, nats; null where nothing was labelled."""
    relative_loss: Mapped[float | None] = mapped_column(Double)
    """`average_loss` over the run's running mean of it; above 1: harder than what came before."""
    used_in_training: Mapped[bool]
    timestamp: Mapped[datetime] = mapped_column(UtcDateTime)


class TokenImpactRow(Base):
    """The token impacts of one training use."""

    __tablename__ = "token_impacts"
    __table_args__ = (UniqueConstraint("metadata_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    metadata_id: Mapped[int] = mapped_column(BigId, ForeignKey("training_metadata.id", ondelete="CASCADE"))
    total_tokens: Mapped[int]
    """Tokens in the whole sequence."""


class TopTokenRow(Base):
    """One of the tokens that mattered most in a training use."""

    __tablename__ = "top_tokens"
    # Without the impact: that of the tokens found is quickly sorted, and every byte here is written at random places.
    __table_args__ = (Index(None, "token_impact_id"), Index(None, "token_id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    token_impact_id: Mapped[int] = mapped_column(BigId, ForeignKey("token_impacts.id", ondelete="CASCADE"))
    token_id: Mapped[int]
    position: Mapped[int]
    impact: Mapped[float] = mapped_column(Double)
    context_start: Mapped[int]
    context_end: Mapped[int]


class RequestRow(Base):
    """A deletion request."""

    __tablename__ = "deletion_requests"
    __table_args__ = (_one_of("state", STATES), Index(None, "fingerprint"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    """Of what is asked for, so that asking twice makes one request; null once erased."""
    run_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("runs.id"))
    """The run that carried it out."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    erased_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RequestSubject(Base):
    """A subject that a deletion request names."""

    __tablename__ = "request_subjects"

    request_id: Mapped[int] = mapped_column(BigId, ForeignKey("deletion_requests.id", ondelete="CASCADE"), primary_key=True)
    subject_key: Mapped[str] = mapped_column(Text, primary_key=True)
    subject: Mapped[str] = mapped_column(Text)


class RequestEntry(Base):
    """An entry that a deletion request covers."""

    __tablename__ = "request_entries"
    __table_args__ = (Index(None, "entry_id"),)

    request_id: Mapped[int] = mapped_column(BigId, ForeignKey("deletion_requests.id", ondelete="CASCADE"), primary_key=True)
    entry_id: Mapped[str] = mapped_column(ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True)


class AuditRow(Base):
    """What an audit found about a deletion request."""

    __tablename__ = "audits"
    __table_args__ = (Index(None, "request_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    request_id: Mapped[int] = mapped_column(BigId, ForeignKey("deletion_requests.id", ondelete="CASCADE"))
    verdict: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Tombstone(Base):
    """That somebody was forgotten, without saying who."""

    __tablename__ = "tombstones"
    __table_args__ = (Index(None, "subject_hash"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    request_id: Mapped[int] = mapped_column(BigId, ForeignKey("deletion_requests.id", ondelete="CASCADE"))
    salt: Mapped[str] = mapped_column(String(32))
    """Hexadecimal, one for the whole ledger."""
    subject_hash: Mapped[str] = mapped_column(String(64))
    """scrypt of the subject key, hexadecimal: dear to compute, so that names cannot be guessed by the million."""
    entries: Mapped[int]
    """Entries removed."""
    erased_at: Mapped[datetime] = mapped_column(UtcDateTime)


def subject_key(subject: str) -> str:
    """A subject as it is compared: without difference of case, width or spacing (`Ana  LÓPEZ` is `ana lópez`)."""
    return " ".join(unicodedata.normalize("NFKC", subject).casefold().split())


def now() -> datetime:
    """This moment in UTC."""
    return datetime.now(UTC)
