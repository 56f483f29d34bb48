"""`expunge ledger …`: look into the ledger, file deletion requests, check, mend, move and clean it."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.progress import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.examples import Example
    from expunge.ledger import DeletionRequest, FoundToken, Ledger, Status
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
    text: tuple[str, ...] = ()
    """Only of entries that contain these words: by --data-file, else by --model as tokens recorded one after the other."""
    concept: tuple[str, ...] = ()
    """Only of entries about `name=word,another phrase`, or a name from --concept-file; looked for as --text is."""
    concept_file: Path | None = None
    """TOML or JSON file of concepts: name = ["word", "another phrase"]."""
    run: int | None = None
    """Only of this run (its number in the ledger); impacts of different runs may not compare."""
    model: str | None = None
    """The model trained, whose tokenizer turns tokens into words."""
    data_file: tuple[Path, ...] = ()
    """The JSON-lines files trained on: what --text and --concept look through, and with --model the words around each token."""
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
    estimator: str | None
    """What estimated the impact; different ones do not compare."""
    token_id: int
    position: int
    source: str
    """`file:line` the entry was first read from."""
    entry_id: str
    run: str
    run_id: int
    recorded: datetime
    """When the example was used in that run."""
    average_loss: float | None
    """Of the example in that run, nats a token."""
    relative_loss: float | None
    """That over the run's running mean of it."""
    checkpoint: str
    """Hash of the model that was trained."""


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

    subjects = set(config.subject)
    if config.subjects_from is not None:
        subjects |= {example.subject for example in read_examples(config.subjects_from)}
    asked = _concepts(config.text, config.concept, config.concept_file)
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


def _concepts(text: Sequence[str], names: Sequence[str], file: Path | None) -> list[Concept]:
    from expunge.ledger.concepts import Concept, concept

    if file is not None and not names:
        raise ExpungeError("--concept-file defines concepts", remedy="say with --concept which one is meant")
    if any(not words.strip() for words in text):
        raise ExpungeError("--text is empty", remedy="give the words to look for")
    return [*(Concept("", (words,)) for words in text), *(concept(words, file) for words in names)]


def _about(concepts: Sequence[Concept], files: Sequence[Path]) -> tuple[list[Example], list[Example]]:
    """All examples of the files, and those about one of the concepts."""
    from expunge.examples import read_examples
    from expunge.ledger.concepts import about

    examples = [example for path in files for example in read_examples(path)]
    return examples, about(examples, concepts)


def _known_about(ledger: Ledger, concepts: Sequence[Concept], files: Sequence[Path]) -> set[str]:
    """The entries of the ledger that are about one of the concepts; says how many could not be looked at."""
    examples, found = _about(concepts, files)
    known = ledger.known_entries(example.id for example in examples)
    if known.others:
        console.print(f"{known.others} entries of the ledger are in none of these files, and were not looked at.")
    ids = known.entry_ids.intersection(example.id for example in found)
    if not ids:
        sought = ", ".join(f'"{phrase}"' for concept in concepts for phrase in concept.phrases)
        raise ExpungeError(f"no entry of the ledger contains {sought}", remedy="check the words and the --data-file")
    return set(ids)


def find(config: LedgerFindConfig) -> list[Found]:
    """The most impactful tokens that fit the question, the greatest first."""
    from expunge.ledger import Ledger

    if config.limit < 1:
        raise ExpungeError(f"--limit {config.limit} finds nothing", remedy="give at least 1")
    asked = _concepts(config.text, config.concept, config.concept_file)
    looks_through = bool(asked and config.data_file)
    if config.model is None and (config.token or ((config.data_file or asked) and not looks_through)):
        raise ExpungeError("words cannot be told from tokens without their tokenizer", remedy="name the --model trained")
    entry_ids = None if config.entry is None else {config.entry}
    about = {example.id for example in _about(asked, config.data_file)[1]} if looks_through else None
    words = None if config.model is None else _Words(config.model)
    token_ids = {*config.token_id, *(words.ids(config.token) if words else ())}
    with Ledger.open(config.database, create=False) as ledger:
        if asked and words and about is None:
            console.print("Without --data-file, only entries are found of which all tokens of the words were recorded.")
            phrases = [phrase for concept in asked for phrase in concept.phrases]
            about = set(ledger.entries_with(words.sequences(phrases)))
        if about is not None:
            entry_ids = about if entry_ids is None else entry_ids & about
        found = ledger.top_tokens(
            subject=config.subject, entry_ids=entry_ids, token_ids=token_ids, run_id=config.run, limit=config.limit
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
            estimator=token.impact_estimator,
            token_id=token.token_id,
            position=token.position,
            source=token.source_key,
            entry_id=token.entry_id,
            run=token.run,
            run_id=token.run_id,
            recorded=token.timestamp,
            average_loss=token.average_loss,
            relative_loss=token.relative_loss,
            checkpoint=token.checkpoint,
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

    def sequences(self, phrases: Sequence[str]) -> set[tuple[int, ...]]:
        """The tokens of phrases, as they may stand in a text: at its beginning or after a space, in these or other capitals."""
        forms = {form for phrase in phrases for form in (phrase, phrase.lower(), phrase.capitalize(), phrase.title())}
        spaced = (space + form for form in sorted(forms) for space in ("", " "))
        return {tuple(self._tokenizer(form, add_special_tokens=False)["input_ids"]) for form in spaced}

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
        return ledger.erase(config.request, dry_run=config.dry_run)
