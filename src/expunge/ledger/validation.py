"""Is what the ledger holds whole and consistent? Layout first, then what the rows say of each other.

Everything is counted by the database, so that memory stays the same whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from expunge.ledger.database import OLD_IMPACT_TABLE, Database
from expunge.ledger.schema import SCHEMA_VERSION, Base, RequestRow, TokenImpactRow, TopTokenRow, TrainingMetadata

_SAMPLE = 100_000
_QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
_REPAIR = "expunge ledger repair"


class Finding(NamedTuple):
    """Something worth saying about a ledger."""

    what: str
    rows: int
    """It concerns so many; 1 for a fact about the layout."""
    broken: bool
    """Whether it is a fault, or only good to know."""
    remedy: str
    """What mends it; empty where nothing needs to be."""


class Validation(NamedTuple):
    """What `validate` found."""

    place: str
    sound: bool
    """Whether nothing is broken."""
    findings: list[Finding]
    counts: dict[str, int]
    """Rows in each table of the ledger that is there."""
    coverage: float | None
    """Share of training uses that have token impacts; None where there are no uses."""
    distributions: dict[str, dict[str, float]]
    """Smallest, mean and greatest, and quantiles (of at most 100,000 evenly spaced rows) of the numbers recorded."""


def validate(database: Database) -> Validation:
    """Look a ledger over, of whatever make, without changing it.

    Raises:
        ExpungeError: it is not a ledger at all, or of a newer version.
    """
    with database.reading() as connection:
        version = database.version(connection, old_too=True)
        there = set(sa.inspect(connection).get_table_names())
        older = version not in (None, SCHEMA_VERSION)
        counts = {table.name: _count(connection, table) for table in Base.metadata.sorted_tables if table.name in there}
        findings = [Finding(what, 1, True, _REPAIR) for what in layout_faults(connection, version)]
        if older:
            what = f"the schema is {version}, and now {SCHEMA_VERSION}: any command that writes brings it there"
            findings = [Finding(what, 1, True, "expunge ledger init")]
        coverage, distributions = None, {}
        if not findings:
            findings += content_faults(connection)
            findings += [Finding(f"table {name} is empty", 0, False, "") for name in _LOOKED_FOR if not counts[name]]
            uses, impacts = counts["training_metadata"], counts["token_impacts"]
            coverage = impacts / uses if uses else None
            if uses > impacts:
                remedy = "" if impacts else "fine-tune again with token impacts recorded"
                findings.append(Finding("training uses without token impacts", uses - impacts, not impacts, remedy))
            distributions = {
                "impact": _distribution(connection, TopTokenRow.id, TopTokenRow.impact),
                "average_loss": _distribution(connection, TrainingMetadata.id, TrainingMetadata.average_loss),
                "total_tokens": _distribution(connection, TokenImpactRow.id, TokenImpactRow.total_tokens),
            }
    return Validation(
        place=database.place,
        sound=not any(finding.broken for finding in findings),
        findings=findings,
        counts=counts,
        coverage=coverage,
        distributions={name: numbers for name, numbers in distributions.items() if numbers},
    )


_LOOKED_FOR = ("entries", "runs", "training_metadata", "token_impacts", "top_tokens")


def layout_faults(connection: Connection, version: str | None) -> Iterator[str]:
    """What is wrong with the tables themselves, one line each."""
    inspector = sa.inspect(connection)
    there = set(inspector.get_table_names())
    if OLD_IMPACT_TABLE in there:
        yield f"table {OLD_IMPACT_TABLE} (now token_impacts) is there"
    for table in Base.metadata.sorted_tables:
        if table.name not in there:
            yield f"table {table.name} is missing"
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        for name in sorted(set(table.columns.keys()) - columns):
            yield f"column {table.name}.{name} is missing"
        for name in sorted(columns - set(table.columns.keys())):
            yield f"column {table.name}.{name} is of an older make"
        if set(inspector.get_pk_constraint(table.name)["constrained_columns"]) != set(table.primary_key.columns.keys()):
            yield f"the primary key of {table.name} is missing"
        foreign = {(tuple(key["constrained_columns"]), key["referred_table"]) for key in inspector.get_foreign_keys(table.name)}
        for key in table.foreign_key_constraints:
            if (tuple(key.column_keys), key.referred_table.name) not in foreign:
                yield f"the foreign key of {table.name}.{', '.join(key.column_keys)} is missing"
        unique = {tuple(key["column_names"]) for key in inspector.get_unique_constraints(table.name)}
        for constraint in table.constraints:
            if isinstance(constraint, sa.UniqueConstraint) and tuple(constraint.columns.keys()) not in unique:
                yield f"the unique key of {table.name} ({', '.join(constraint.columns.keys())}) is missing"
        indexed = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name)}
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if tuple(index.columns.keys()) not in indexed:
                yield f"the index {index.name} is missing"
    if version != SCHEMA_VERSION:
        yield f"the schema version is not {SCHEMA_VERSION}"


def content_faults(connection: Connection) -> Iterator[Finding]:
    """What is wrong with the rows of a ledger whose layout is right."""
    for orphans in orphan_conditions():
        query = sa.select(sa.func.count()).select_from(orphans.column.table).where(orphans.condition)
        yield from _finding(orphans.what, connection.scalar(query), _REPAIR)
    token, impact = TopTokenRow, TokenImpactRow
    outside, window, infinite = token_faults()
    counted = sa.select(*(sa.func.sum(sa.case((fault, 1), else_=0)) for fault in (outside, window, infinite)))
    counts = connection.execute(counted.join_from(token, impact, impact.id == token.token_impact_id)).one()
    yield from _finding("top tokens at a position outside their sequence", counts[0], _REPAIR)
    yield from _finding("top tokens outside their own context window", counts[1], _REPAIR)
    yield from _finding("top tokens whose impact is no finite number", counts[2], _REPAIR)
    # In the order of an index, so that nothing has to be sorted.
    per_impact = (
        sa.select((sa.func.count(token.position) - sa.func.count(token.position.distinct())).label("extra"))
        .group_by(token.token_impact_id)
        .subquery()
    )
    yield from _finding("top tokens recorded twice", connection.scalar(sa.select(sa.func.sum(per_impact.c.extra))), _REPAIR)
    childless = ~sa.exists().where(token.token_impact_id == impact.id)
    found = connection.scalar(sa.select(sa.func.count()).select_from(impact).where(childless))
    yield from _finding("token impacts without a single top token", found, "", broken=False)
    unsaid = sa.and_(RequestRow.state != "open", RequestRow.run_id.is_(None))
    found = connection.scalar(sa.select(sa.func.count()).select_from(RequestRow).where(unsaid))
    yield from _finding("deletion requests carried out by no known run", found, "file them again")


class Orphans(NamedTuple):
    """Rows whose parent is missing, by one foreign key."""

    column: sa.Column[Any]
    condition: sa.ColumnElement[bool]
    what: str


def orphan_conditions() -> Iterator[Orphans]:
    """How to find them for each foreign key, parents first, so that removing some makes no more of those before."""
    for table in Base.metadata.sorted_tables:
        for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name)):
            child, parent = key.elements[0].parent, key.elements[0].column
            missing = sa.and_(child.is_not(None), ~sa.exists().where(parent == child).correlate(table))
            yield Orphans(child, missing, f"rows of {table.name} whose {child.name} is not in {parent.table.name}")


def token_faults() -> tuple[Any, Any, Any]:
    """Conditions on `top_tokens` joined with `token_impacts`: outside the sequence, outside the window, not finite."""
    token, impact = TopTokenRow, TokenImpactRow
    outside = sa.or_(token.position < 0, token.position >= impact.total_tokens)
    window = sa.or_(
        token.context_start < 0,
        token.context_start > token.position,
        token.context_end <= token.position,
        token.context_end > impact.total_tokens,
    )
    # Every comparison with what is no number is false in one database and true in the other: `not (a and b)` holds in both.
    infinite = ~sa.and_(token.impact <= 1.7976931348623157e308, token.impact >= -1.7976931348623157e308)
    return outside, sa.and_(window, ~outside), infinite


def _finding(what: str, count: int | None, remedy: str, *, broken: bool = True) -> Iterator[Finding]:
    if count:
        yield Finding(what, int(count), broken, remedy)


def _distribution(connection: Connection, key: Any, column: Any) -> dict[str, float]:
    facts = sa.select(sa.func.count(column), sa.func.min(column), sa.func.avg(column), sa.func.max(column), sa.func.count(key))
    count, least, mean, most, rows = connection.execute(facts).one()
    if not count:
        return {}
    sample = sa.select(column).where(column.is_not(None), key % max(1, -(-rows // _SAMPLE)) == 0)
    values = sorted(connection.scalars(sample)) or [least, most]
    quantiles = {name: float(values[round(share * (len(values) - 1))]) for name, share in _QUANTILES.items()}
    return {"min": float(least), **quantiles, "max": float(most), "mean": float(mean)}


def _count(connection: Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
