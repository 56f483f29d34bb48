"""`expunge ledger find`: the tokens that mattered most, in words, and the training uses behind them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.progress import console
from expunge.recipes.ledger import DATABASE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from expunge.ledger import FoundToken, RecordedRun
    from expunge.ledger.concepts import Concept


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
    """Only of these words, as far as they are one token, with or without a space before them."""
    text: tuple[str, ...] = ()
    """Only of entries that contain these words: by --data-file, else as tokens recorded one after the other."""
    concept: tuple[str, ...] = ()
    """Only of entries about `name=word,another phrase`, or a name from --concept-file; looked for as --text is."""
    concept_file: Path | None = None
    """TOML or JSON file of concepts: name = ["word", "another phrase"]."""
    run: int | None = None
    """Only of this run (its number in the ledger); impacts of different runs may not compare."""
    model: str | None = None
    """The model trained, whose tokenizer turns tokens into words; when not given, what each run left in its directory."""
    data_file: tuple[Path, ...] = ()
    """The JSON-lines files trained on: what --text and --concept look through, and where the words around each token are
    read; when not given, the words around are read from the files that the run's manifest names."""
    limit: int = 20
    """At most so many, the most impactful first."""


@dataclass(frozen=True)
class Found:
    """One token that mattered, and the training use behind it."""

    subject: str
    token: str | None
    """In words, where the tokenizer is known."""
    context: str | None
    """The words around it, where the data are known too."""
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


def find(config: LedgerFindConfig) -> list[Found]:
    """The most impactful tokens that fit the question, the greatest first.

    Raises:
        ExpungeError: a question in words cannot be answered, or nobody of that name is left in the ledger.
    """
    from expunge.ledger import Ledger
    from expunge.ledger.concepts import asked_concepts

    if config.limit < 1:
        raise ExpungeError(f"--limit {config.limit} finds nothing", remedy="give at least 1")
    asked = asked_concepts(config.text, config.concept, config.concept_file)
    with Ledger.open(config.database, create=False) as ledger:
        runs = _Runs(ledger.runs(), config)
        entry_ids = None if config.entry is None else {config.entry}
        if asked:
            if config.data_file:
                about = _entries_about(asked, config.data_file)
            else:
                console.print("Without --data-file, only entries are found of which all tokens of the words were recorded.")
                phrases = [phrase for concept in asked for phrase in concept.phrases]
                about = set(ledger.entries_with(runs.newest().sequences(phrases)))
            entry_ids = about if entry_ids is None else entry_ids & about
        found = ledger.top_tokens(
            subject=config.subject,
            entry_ids=entry_ids,
            token_ids={*config.token_id, *(runs.newest().ids(config.token) if config.token else ())},
            run_id=config.run,
            limit=config.limit,
        )
        if not found and config.subject is not None and (moment := ledger.erased_at(config.subject)):
            raise ExpungeError(f'"{config.subject}" was erased from the ledger on {moment:%Y-%m-%d}')
    words = runs.words(found)
    return [
        Found(
            subject=token.subject,
            token=said,
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
        for token, (said, context) in zip(found, words, strict=True)
    ]


def _entries_about(concepts: Sequence[Concept], files: Sequence[Path]) -> set[str]:
    from expunge.examples import read_examples
    from expunge.ledger.concepts import about

    return {example.id for example in about((example for path in files for example in read_examples(path)), concepts)}


class _Runs:
    """The tokenizer and the data of each run that left them: as the command names them, else in the run's own directory."""

    def __init__(self, runs: Sequence[RecordedRun], config: LedgerFindConfig) -> None:
        self._config = config
        self._models = {run.id: run.path / "model" for run in runs if (run.path / "model" / "tokenizer.json").is_file()}
        self._paths = {run.id: run.path for run in runs}
        self._read: dict[str, _Words] = {}

    def newest(self) -> _Words:
        """Those of the newest run, or of the one asked for.

        Raises:
            ExpungeError: no tokenizer is known.
        """
        run_id = self._config.run if self._config.run is not None else max(self._models, default=0)
        if (found := self._of(run_id)) is None:
            raise ExpungeError("words cannot be told from tokens without their tokenizer", remedy="name the --model trained")
        return found

    def words(self, found: Sequence[FoundToken]) -> list[tuple[str | None, str | None]]:
        """Each token in words, and the words around it; None where they are not known."""
        said: dict[int, tuple[str | None, str | None]] = {}
        for run_id in {token.run_id for token in found}:
            some = [place for place, token in enumerate(found) if token.run_id == run_id]
            if (words := self._of(run_id)) is None:
                said |= dict.fromkeys(some, (None, None))
                continue
            contexts = words.contexts([found[place] for place in some], self._files(run_id))
            said |= {place: (words.text([found[place].token_id]), c) for place, c in zip(some, contexts, strict=True)}
        return [said[place] for place in range(len(found))]

    def _of(self, run_id: int) -> _Words | None:
        model = self._config.model or (str(self._models[run_id]) if run_id in self._models else None)
        if model is not None and model not in self._read:
            self._read[model] = _Words(model)
        return None if model is None else self._read[model]

    def _files(self, run_id: int) -> tuple[Path, ...]:
        if self._config.data_file:
            return self._config.data_file
        try:
            inputs = json.loads((self._paths[run_id] / "manifest.json").read_text("utf-8"))["inputs"]
        except (OSError, ValueError, KeyError):
            return ()
        return tuple(path for name in inputs if (path := Path(name)).suffix in {".jsonl", ".json"} and path.is_file())


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
