"""Recording training uses and their token impacts: buffered, in bulk, once per entry and run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from expunge.errors import ExpungeError
from expunge.ledger.database import Database, as_stored, insert_rows, new_ids, widen_cache
from expunge.ledger.impacts import TokenImpact
from expunge.ledger.schema import Entry, RunRow, TokenImpactRow, TopTokenRow, TrainingMetadata, now

_METADATA_COLUMNS = (
    "id",
    "entry_id",
    "run_id",
    "model_checkpoint_hash",
    "average_loss",
    "relative_loss",
    "used_in_training",
    "timestamp",
)
_TOP_TOKEN_COLUMNS = ("token_impact_id", "token_id", "position", "impact", "context_start", "context_end")


_MANY_ROWS = 10_000
"""So many new rows are worth new statistics."""


class _Use(NamedTuple):
    entry_id: str
    average_loss: float | None
    relative_loss: float | None
    timestamp: datetime
    impact: TokenImpact | None


class Recorder:
    """Writes what a run was trained on. Made by `Ledger.recorder`, used in a `with` block.

    What is recorded reaches the database in transactions, whenever the buffer is full, at `flush`, and when the block ends,
    also by an exception. A trainer calls `flush` before it saves a checkpoint: then a killed and continued run, which starts
    again at that checkpoint, ends with the rows of an undisturbed one. What it records a second time on the way is ignored.

    Not to be shared between processes or threads; each makes its own, and they may record the same run at once.
    """

    def __init__(self, database: Database, run_id: int, checkpoint: str | None, buffer_rows: int) -> None:
        self._database, self._run_id, self._buffer_rows = database, run_id, buffer_rows
        with database.reading() as connection:
            started_from = connection.execute(sa.select(RunRow.checkpoint).where(RunRow.id == run_id)).scalar()
            if started_from is None:
                raise ExpungeError(f"there is no run {run_id}", where=database.place, remedy="call start_run first")
            earlier = connection.execute(
                sa.select(TrainingMetadata.entry_id, TrainingMetadata.average_loss)
                .where(TrainingMetadata.run_id == run_id)
                .order_by(TrainingMetadata.id)
            )
            # Added in the order of recording, as the interrupted process did: the same sum to the last bit.
            self._recorded: set[str] = set()
            self._losses, self._loss_sum = 0, 0.0
            for entry_id, loss in earlier:
                self._recorded.add(entry_id)
                if loss is not None:
                    self._losses, self._loss_sum = self._losses + 1, self._loss_sum + loss
        self._checkpoint = started_from if checkpoint is None else checkpoint
        self._buffer: list[_Use] = []
        self._buffered_rows = self._written_rows = 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.flush()
        if self._written_rows >= _MANY_ROWS:
            self._database.refresh_statistics()

    def __contains__(self, entry_id: object) -> bool:
        """Whether this entry's use in this run is already recorded, so that its impact need not be computed again."""
        return entry_id in self._recorded

    def mark_used_in_training(
        self,
        entry_id: str,
        *,
        losses: Iterable[float] = (),
        token_impact: TokenImpact | Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> None:
        """Record that an entry was trained on in this run; the first call for an entry counts, later ones are ignored.

        `average_loss` is the mean of `losses`; `relative_loss` is that over the running mean of `average_loss` in this run,
        this entry included (1 for the first). Where several processes record one run, each has the running mean of what it
        recorded itself and what was there when it began.

        Args:
            entry_id: `Example.id` of an entry that `add_entries` has been given.
            losses: loss of each labelled token of the example, nats; none where nothing was labelled.
            token_impact: the tokens that mattered: a `TokenImpact`, `{"top_tokens": [...], "total_tokens": n}`, or the bare
                list of top tokens; None where nothing was measured.

        Raises:
            ExpungeError: another form of token impact, or a loss that is no finite number; or, when the buffer is written, an
                entry that is not in the ledger.
        """
        if entry_id in self._recorded:
            return
        losses = [float(loss) for loss in losses]
        average = relative = None
        if losses:
            average = math.fsum(losses) / len(losses)
            if not math.isfinite(average):
                raise ExpungeError(f"the loss of entry {entry_id} is {average}", remedy="lower the learning rate")
        impact = None
        if token_impact is not None:
            impact = TokenImpact.parse(token_impact, entry=entry_id, labelled=len(losses))
        if average is not None:
            self._losses, self._loss_sum = self._losses + 1, self._loss_sum + average
            relative = average * self._losses / self._loss_sum if self._loss_sum else 1.0
        self._recorded.add(entry_id)
        self._buffer.append(_Use(entry_id, average, relative, now(), impact))
        self._buffered_rows += 2 + (len(impact.top_tokens) if impact else 0)
        if self._buffered_rows >= self._buffer_rows:
            self.flush()

    def flush(self) -> None:
        """Write the buffer to the database in one transaction.

        Raises:
            ExpungeError: an entry is not in the ledger, or the database cannot be written; the buffer is kept.
        """
        if not self._buffer:
            return
        try:
            with self._database.writing() as connection:
                if self._buffered_rows >= _MANY_ROWS:
                    widen_cache(connection)
                _insert(connection, self._run_id, self._checkpoint, self._buffer)
        except sa.exc.IntegrityError:
            raise self._unknown_entry() from None
        self._written_rows += self._buffered_rows
        self._buffer, self._buffered_rows = [], 0

    def _unknown_entry(self) -> ExpungeError:
        wanted = [use.entry_id for use in self._buffer]
        with self._database.reading() as connection:
            known: set[str] = set()
            for start in range(0, len(wanted), 1000):
                chunk = wanted[start : start + 1000]
                known.update(connection.scalars(sa.select(Entry.id).where(Entry.id.in_(chunk))))
        missing = next((entry_id for entry_id in wanted if entry_id not in known), None)
        what = f"entry {missing} is not in the ledger" if missing else f"run {self._run_id} is no longer in the ledger"
        return ExpungeError(what, where=self._database.place, remedy="give its example to add_entries before training")


def _insert(connection: Connection, run_id: int, checkpoint: str, uses: Sequence[_Use]) -> None:
    if connection.dialect.name != "sqlite":
        # One writer a run: two that hold each other's entries would wait for each other for ever.
        connection.execute(sa.select(RunRow.id).where(RunRow.id == run_id).with_for_update())
    # Another process may have recorded some in the meantime.
    there = _recorded(connection, run_id, [use.entry_id for use in uses])
    uses = [use for use in uses if use.entry_id not in there]
    metadata_ids = new_ids(connection, TrainingMetadata.__tablename__, len(uses))
    rows = [
        (metadata_id, use.entry_id, run_id, checkpoint, use.average_loss, use.relative_loss, True, use.timestamp)
        for metadata_id, use in zip(metadata_ids, uses, strict=True)
    ]
    insert_rows(connection, TrainingMetadata.__tablename__, _METADATA_COLUMNS, as_stored(connection, rows))
    measured = [(metadata_id, use.impact) for metadata_id, use in zip(metadata_ids, uses, strict=True) if use.impact]
    impact_ids = new_ids(connection, TokenImpactRow.__tablename__, len(measured))
    numbered = list(zip(impact_ids, measured, strict=True))
    impacts = [(impact_id, metadata_id, impact.total_tokens) for impact_id, (metadata_id, impact) in numbered]
    insert_rows(connection, TokenImpactRow.__tablename__, ("id", "metadata_id", "total_tokens"), impacts)
    insert_top_tokens(connection, [(impact_id, *token) for impact_id, (_, impact) in numbered for token in impact.top_tokens])


def _recorded(connection: Connection, run_id: int, entry_ids: Sequence[str]) -> set[str]:
    there: set[str] = set()
    query = sa.select(TrainingMetadata.entry_id).where(TrainingMetadata.run_id == run_id)
    for start in range(0, len(entry_ids), 1000):
        chunk = entry_ids[start : start + 1000]
        there.update(connection.scalars(query.where(TrainingMetadata.entry_id.in_(chunk))))
    return there


def insert_top_tokens(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of `top_tokens` in bulk.

    Args:
        rows: (token_impact_id, token_id, position, impact, context_start, context_end) each.
    """
    insert_rows(connection, TopTokenRow.__tablename__, _TOP_TOKEN_COLUMNS, rows)
