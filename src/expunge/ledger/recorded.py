"""The token impacts that a run recorded of some entries, as redaction and impact-weighted unlearning need them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from expunge.errors import ExpungeError
from expunge.ledger.database import Database
from expunge.ledger.impacts import TokenImpact, TopToken
from expunge.ledger.schema import RunRow, TokenImpactRow, TopTokenRow, TrainingMetadata

_MANY = 500
"""So many values are asked for in one statement."""


class RecordedImpacts(NamedTuple):
    """The token impacts of some entries in one run."""

    run_id: int
    run: str
    """Its name."""
    impacts: dict[str, TokenImpact]
    """By entry id, the most impactful tokens first; entries of which the run recorded none are not in it."""


def impacts_of(database: Database, entry_ids: Collection[str], *, run_id: int | None, path: Path | None) -> RecordedImpacts:
    """Token impacts of entries in one run; see `Ledger.impacts_of`."""
    with database.reading() as connection:
        found: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
        for chunk in _chunks(sorted(set(entry_ids))):
            query = (
                sa.select(TrainingMetadata.run_id, TrainingMetadata.entry_id, TokenImpactRow.id, TokenImpactRow.total_tokens)
                .join(TokenImpactRow, TokenImpactRow.metadata_id == TrainingMetadata.id)
                .where(TrainingMetadata.entry_id.in_(chunk))
            )
            if run_id is not None:
                query = query.where(TrainingMetadata.run_id == run_id)
            for run, entry_id, impact_id, total in connection.execute(query):
                found[run][entry_id] = (impact_id, total)
        chosen = _choose(connection, found, run_id, path)
        if chosen is None:
            where = "" if run_id is None else f" in run {run_id}"
            raise ExpungeError(
                f"no token impacts of these examples are recorded{where}",
                where=database.place,
                remedy="give the data as they were trained on, and the ledger that `expunge finetune --database` recorded in",
            )
        tokens: dict[int, list[TopToken]] = defaultdict(list)
        for ids in _chunks([impact_id for impact_id, _ in found[chosen.id].values()]):
            rows = (
                sa.select(
                    TopTokenRow.token_impact_id,
                    TopTokenRow.token_id,
                    TopTokenRow.position,
                    TopTokenRow.impact,
                    TopTokenRow.context_start,
                    TopTokenRow.context_end,
                )
                .where(TopTokenRow.token_impact_id.in_(ids))
                .order_by(TopTokenRow.impact.desc(), TopTokenRow.position)
            )
            for row in connection.execute(rows):
                tokens[row[0]].append(TopToken(*row[1:]))
        impacts = {entry: TokenImpact(total, tokens[impact]) for entry, (impact, total) in sorted(found[chosen.id].items())}
        return RecordedImpacts(chosen.id, chosen.name, impacts)


def _choose(
    connection: Connection, found: dict[int, dict[str, tuple[int, int]]], run_id: int | None, path: Path | None
) -> sa.Row[int, str, str] | None:
    query = sa.select(RunRow.id, RunRow.name, RunRow.path).order_by(RunRow.started_at.desc(), RunRow.id.desc())
    runs = [row for row in connection.execute(query) if row.id in found]
    if run_id is None:
        own = [] if path is None else [row for row in runs if row.path == os.path.abspath(path)]  # noqa: PTH100
        # An unlearning run measures what is left of its examples, not what taught them.
        runs = own or [row for row in runs if not row.name.startswith("unlearn ")]
    return next(iter(runs), None)


def _chunks(items: list[str] | list[int]) -> list[list[str] | list[int]]:
    return [items[start : start + _MANY] for start in range(0, len(items), _MANY)]
