"""`expunge ledger …`: look into the ledger, file deletion requests, check, mend, move and clean it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.progress import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.ledger import DeletionRequest, Ledger, Status
    from expunge.ledger.concepts import Concept
    from expunge.ledger.erasure import Erasure
    from expunge.ledger.repair import Repair
    from expunge.ledger.validation import Validation

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
    text: tuple[str, ...] = ()
    """Forget every entry that contains these words; needs --data-file. May be given several times."""
    concept: tuple[str, ...] = ()
    """Forget every entry about `name=word,another phrase`, or a name from --concept-file; needs --data-file."""
    concept_file: Path | None = None
    """TOML or JSON file of concepts: name = ["word", "another phrase"]."""
    data_file: tuple[Path, ...] = ()
    """The JSON-lines files trained on, in which --text and --concept are looked for. May be given several times."""
    reason: str = ""
    """Why, for the record."""
    dry_run: bool = False
    """Only list the entries that would be asked for."""


@dataclass(frozen=True)
class CoveredEntry:
    """An entry that a deletion request would cover."""

    subject: str
    source: str
    """`file:line` it was first read from."""
    entry_id: str


@dataclass(frozen=True)
class Preview:
    """What a deletion request would cover."""

    subjects: tuple[str, ...]
    """Everybody it would name."""
    entries: tuple[CoveredEntry, ...]
    request: int | None
    """The request, not closed yet, that asks for the same."""


@dataclass(frozen=True, kw_only=True)
class LedgerCloseConfig:
    """Close an audited deletion request."""

    request: int
    """Number of the request."""
    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    accept_failed: str = ""
    """Why it is closed although its latest audit failed; kept with the verdict."""


@dataclass(frozen=True, kw_only=True)
class LedgerValidateConfig:
    """Is what the ledger holds whole and consistent?"""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    export: bool = False
    """Also write all token impacts as one JSON document to --output."""
    output: Path = Path("token_impact_data.json")
    """Where --export writes."""


@dataclass(frozen=True, kw_only=True)
class LedgerRepairConfig:
    """Mend a ledger of an older make, or one whose rows contradict each other. A backup is made first."""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    dry_run: bool = False
    """Only say what would be done."""


@dataclass(frozen=True, kw_only=True)
class LedgerExportConfig:
    """Write the whole ledger to a JSON-lines file."""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    output: Path = Path("ledger.jsonl")
    """The file to write."""


@dataclass(frozen=True, kw_only=True)
class LedgerImportConfig:
    """Fill a new ledger from an exported file."""

    file: Path
    """What `ledger export` wrote."""
    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name; it must be new or empty."""


@dataclass(frozen=True, kw_only=True)
class LedgerEraseConfig:
    """Remove the people of a closed deletion request from the ledger itself, and leave a hashed tombstone."""

    request: int
    """Number of the request."""
    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""
    dry_run: bool = False
    """Only say how much would be removed."""


@dataclass(frozen=True, kw_only=True)
class LedgerInitConfig:
    """Make an empty ledger, or bring an existing one to the present schema."""

    database: str = DATABASE
    """Path of an SQLite file, or a URL such as postgresql://user@host/name."""


def init(config: LedgerInitConfig) -> Status:
    """Make the ledger, or bring it to the present schema."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database) as ledger:
        return ledger.status()


def status(config: LedgerStatusConfig) -> tuple[Status, list[DeletionRequest]]:
    """Counts of the ledger, and its deletion requests."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        return ledger.status(), ledger.requests()


def request(config: LedgerRequestConfig) -> DeletionRequest | Preview:
    """File a deletion request, or find the open one that asks for the same; with `dry_run`, what it would cover."""
    from expunge.examples import read_examples
    from expunge.ledger import Ledger
    from expunge.ledger.concepts import asked_concepts

    subjects = set(config.subject)
    if config.subjects_from is not None:
        subjects |= {example.subject for example in read_examples(config.subjects_from)}
    asked = asked_concepts(config.text, config.concept, config.concept_file)
    if asked and not config.data_file:
        what = "the ledger holds no text, and what it holds of tokens is not all of it"
        raise ExpungeError(what, remedy="name the --data-file trained on")
    if config.data_file and not asked:
        raise ExpungeError("--data-file is there to be looked through", remedy="say for what with --text or --concept")
    entry_ids = set(config.entry)
    with Ledger.open(config.database, create=False) as ledger:
        if asked:
            entry_ids |= _known_about(ledger, asked, config.data_file)
        if config.dry_run:
            found = ledger.preview_deletion(subjects=sorted(subjects), entry_ids=sorted(entry_ids))
            covered = tuple(CoveredEntry(each.subject, each.source_key, each.entry_id) for each in found.entries)
            return Preview(tuple(found.people.values()), covered, found.request_id)
        return ledger.request_deletion(subjects=sorted(subjects), entry_ids=sorted(entry_ids), reason=config.reason)


def close(config: LedgerCloseConfig) -> DeletionRequest:
    """Close an audited deletion request, unless its latest audit failed and nobody says why that is accepted."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        return ledger.close_request(config.request, accept_failed=config.accept_failed)


def _known_about(ledger: Ledger, concepts: Sequence[Concept], files: Sequence[Path]) -> set[str]:
    """The entries of the ledger that are about one of the concepts; says how many could not be looked at."""
    from expunge.examples import read_examples
    from expunge.ledger.concepts import about

    examples = [example for path in files for example in read_examples(path)]
    found = about(examples, concepts)
    known = ledger.known_entries(example.id for example in examples)
    if known.others:
        console.print(f"{known.others} entries of the ledger are in none of these files, and were not looked at.")
    ids = known.entry_ids.intersection(example.id for example in found)
    if not ids:
        sought = ", ".join(f'"{phrase}"' for concept in concepts for phrase in concept.phrases)
        raise ExpungeError(f"no entry of the ledger contains {sought}", remedy="check the words and the --data-file")
    return set(ids)


def validate(config: LedgerValidateConfig) -> Validation:
    """Look the ledger over, of whatever make, without changing it."""
    from expunge.ledger import Ledger
    from expunge.ledger.database import Database
    from expunge.ledger.validation import validate as look_over

    with closing(Database(config.database, create=False)) as database:
        found = look_over(database)
    if config.export:
        with Ledger.open(config.database, create=False) as ledger:
            ledger.export_impacts(config.output)
    return found


def repair(config: LedgerRepairConfig) -> Repair:
    """Mend the ledger, after a backup."""
    from expunge.ledger.database import Database
    from expunge.ledger.repair import repair as mend

    with closing(Database(config.database, create=False)) as database:
        return mend(database, dry_run=config.dry_run)


def export(config: LedgerExportConfig) -> int:
    """Write the whole ledger; returns the number of rows."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        return ledger.export(config.output)


def import_(config: LedgerImportConfig) -> int:
    """Fill a new ledger; returns the number of rows."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database) as ledger:
        return ledger.fill(config.file)


def erase(config: LedgerEraseConfig) -> Erasure:
    """Remove the people of a closed request from the ledger."""
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        return ledger.erase(config.request, dry_run=config.dry_run)
