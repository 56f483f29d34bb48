"""`expunge ledger …`: look into the ledger, file deletion requests, check, mend, move and clean it."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.ledger import DeletionRequest, FoundToken, Status
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
    token: tuple[str, ...] = ()
    """Only of these words, as far as they are one token, with or without a space before them; needs --model."""
    run: int | None = None
    """Only of this run (its number in the ledger); impacts of different runs may not compare."""
    model: str | None = None
    """The model trained, whose tokenizer turns tokens into words."""
    data_file: tuple[Path, ...] = ()
    """The JSON-lines files trained on, to show the words around each token; needs --model. May be given several times."""
    limit: int = 20
    """At most so many, the most impactful first."""


@dataclass(frozen=True)
class Found:
    """One token that mattered, and the training use behind it."""

    subject: str
    token: str | None
    """In words, where a model was named."""
    context: str | None
    """The words around it, where the data were given too."""
    impact: float
    token_id: int
    position: int
    run: str
    source: str
    """`file:line` the entry was first read from."""
    entry_id: str
    average_loss: float | None
    """Of the example in that run, nats a token."""


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


def request(config: LedgerRequestConfig) -> DeletionRequest:
    """File a deletion request, or find the open one that asks for the same."""
    from expunge.examples import read_examples
    from expunge.ledger import Ledger

    subjects = set(config.subject)
    if config.subjects_from is not None:
        subjects |= {example.subject for example in read_examples(config.subjects_from)}
    with Ledger.open(config.database, create=False) as ledger:
        return ledger.request_deletion(subjects=sorted(subjects), entry_ids=config.entry, reason=config.reason)


def find(config: LedgerFindConfig) -> list[Found]:
    """The most impactful tokens that fit the question, the greatest first."""
    from expunge.ledger import Ledger

    if config.limit < 1:
        raise ExpungeError(f"--limit {config.limit} finds nothing", remedy="give at least 1")
    if config.model is None and (config.token or config.data_file):
        raise ExpungeError("words cannot be told from tokens without their tokenizer", remedy="name the --model trained")
    words = None if config.model is None else _Words(config.model)
    token_ids = {*config.token_id, *(words.ids(config.token) if words else ())}
    with Ledger.open(config.database, create=False) as ledger:
        found = ledger.top_tokens(
            subject=config.subject, entry_id=config.entry, token_ids=token_ids, run_id=config.run, limit=config.limit
        )
        if not found and config.subject is not None and (moment := ledger.erased_at(config.subject)):
            raise ExpungeError(f'"{config.subject}" was erased from the ledger on {moment:%Y-%m-%d}')
    contexts = words.contexts(found, config.data_file) if words else [None] * len(found)
    return [
        Found(
            subject=token.subject,
            token=words.text([token.token_id]) if words else None,
            context=context,
            impact=token.impact,
            token_id=token.token_id,
            position=token.position,
            run=token.run,
            source=token.source_key,
            entry_id=token.entry_id,
            average_loss=token.average_loss,
        )
        for token, context in zip(found, contexts, strict=True)
    ]


class _Words:
    """Tokens to words and back, by the tokenizer of the model trained."""

    def __init__(self, model: str) -> None:
        from expunge.models.loading import load_tokenizer

        self._tokenizer = load_tokenizer(model)

    def ids(self, words: Sequence[str]) -> set[int]:
        """The tokens that are one of these words.

        Raises:
            ExpungeError: a word is several tokens however it is written.
        """
        found: set[int] = set()
        for word in words:
            forms = [self._tokenizer(form, add_special_tokens=False)["input_ids"] for form in (word, f" {word}")]
            single = {form[0] for form in forms if len(form) == 1}
            if not single:
                parts = ", ".join(f"{self.text([part])!r}" for part in forms[-1])
                raise ExpungeError(f'"{word}" is no single token of this model ({parts})', remedy="ask for one of its parts")
            found |= single
        return found

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens)))

    def contexts(self, found: Sequence[FoundToken], files: Sequence[Path]) -> list[str | None]:
        """The words in each token's window; None where the data do not hold its example as it was trained on."""
        from expunge.batching import tokenize
        from expunge.examples import read_examples

        wanted = {token.entry_id for token in found}
        examples = [example for path in files for example in read_examples(path) if example.id in wanted]
        sequences = {each.id: each.tokens for each in tokenize(examples, self._tokenizer, max_seq_length=sys.maxsize)}
        windows: list[str | None] = []
        for token in found:
            sequence = sequences.get(token.entry_id, ())
            same = token.position < len(sequence) and sequence[token.position] == token.token_id
            windows.append(self.text(sequence[token.context_start : token.context_end]) if same else None)
        return windows


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
        return ledger.erase(config.request)
