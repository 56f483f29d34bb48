"""`expunge prepare redact`: rewrite training data without the words that mattered most, as the ledger has them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, write_examples
from expunge.files import fingerprint, sha256
from expunge.progress import console, progress
from expunge.runs import Run, check_place, settings_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.ledger.recorded import RecordedImpacts
    from expunge.sources.redaction import StandIn

_SHOWN = 3
How = Literal["drop", "mask", "replace"]


@dataclass(frozen=True, kw_only=True)
class PrepareRedactConfig:
    """Rewrite training data without the words that mattered most for some people or topics."""

    data_file: tuple[Path, ...]
    """JSON-lines files of examples, as they were trained on; several are given one by one."""
    output: Path
    """Run directory for the rewritten files, each under its own name."""
    model: str
    """The model trained, or its base: its tokenizer and chat template lead from recorded tokens to words."""
    database: str
    """Ledger that the training was recorded in: a path or a database URL."""
    subject: tuple[str, ...] = ()
    """Whose examples are rewritten; may be given several times. Those of others are copied as they are."""
    subjects_from: Path | None = None
    """A JSON-lines file of examples, such as the forget set: the examples of everybody in it are rewritten."""
    concept: tuple[str, ...] = ()
    """Or the examples about `name=word,another phrase`, or about a name from --concept-file, whoever they speak of."""
    concept_file: Path | None = None
    """TOML or JSON file of concepts: name = ["word", "another phrase"]."""
    how: How = "mask"
    """`drop` the words; `mask` them with a placeholder; `replace` them by another generated person's of the same kind."""
    placeholder: str = "[removed]"
    """What `--how mask` puts in their place."""
    top_k: int | None = None
    """Take so many of the recorded tokens of each example, the most impactful first; all when not given."""
    percentile: float | None = None
    """Or take the tokens at or above this percentile of their sequence."""
    run: int | None = None
    """The run whose impacts are taken (its number in the ledger); the latest that trained on these examples when not given."""
    seed: int = 42
    """Another seed, other people's values with `--how replace`."""
    dry_run: bool = False
    """Show some examples before and after, and write nothing."""


class _Chosen(NamedTuple):
    """What is to go."""

    keys: dict[str, set[str]]
    """By subject, as the words are compared: a word goes from all examples of its subject."""
    counts: Counter[str]
    """Tokens that lead to no word, by the reason."""


def redact(config: PrepareRedactConfig) -> Run:
    """Write the files again without the words that mattered most.

    A dry run comes back as a run that is not finished, with the same `results`, and leaves nothing on the disk.

    Raises:
        ExpungeError: the settings contradict each other, the data are broken, or the ledger's positions are not those of these
            data under this tokenizer. Nothing is written then.
    """
    from expunge.ledger import Ledger
    from expunge.ledger.schema import subject_key
    from expunge.models import check_readable, load_tokenizer, model_fingerprint
    from expunge.sources.redaction import has_words

    _check(config)
    files = {path: read_examples(path) for path in config.data_file}
    everyone = [example for examples in files.values() for example in examples]
    wanted, topical = _subjects(config, everyone), _topical(config, everyone)
    touched = [each for each in everyone if subject_key(each.subject) in wanted or each.id in topical]
    check_readable(config.model)
    with Ledger.open(config.database, create=False) as ledger:
        recorded = ledger.impacts_of({example.id for example in touched}, run_id=config.run)
    chosen = _choose(config, touched, recorded, load_tokenizer(config.model))
    rewritten, words, places = _rewrite(config, everyone, touched, chosen)

    kept = {path: [rewritten.get(example.id, example) for example in examples] for path, examples in files.items()}
    whole = {
        path: [example for example in examples if has_words(example.prompt) and has_words(example.response)]
        for path, examples in kept.items()
    }
    emptied = sum(len(kept[path]) - len(whole[path]) for path in files)
    if empty := next((path for path in files if not whole[path]), None):
        raise ExpungeError("no example is left with a word", where=empty, remedy="choose --how mask, or a smaller --top-k")
    results = {
        "run": f"{recorded.run_id}, {recorded.run}",
        "examples": len(rewritten),
        "unchanged": len({example.id for example in touched}) - len(rewritten),
        "words": words.total(),
        "kinds": dict(sorted(words.items())),
        "places": places,
        "left_out": emptied,
        "tokens_without_a_word": dict(sorted(chosen.counts.items())),
    }
    if config.dry_run:
        _show(touched, rewritten)
        return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})

    check_place(config.output)
    inputs = {str(path): sha256(path) for path in config.data_file} | {
        "model": model_fingerprint(config.model),
        "impacts": fingerprint([[name, *impact.top_tokens] for name, impact in recorded.impacts.items()]),
        # Who they are is said in the files alone.
        "subjects": fingerprint(sorted(wanted)),
    }
    inputs |= {"topical": fingerprint(sorted(topical))} if topical else {}
    named = ("subject", "subjects_from", "concept", "concept_file")
    settings = settings_of(config, without=("data_file", "output", "model", "database", *named, "run", "dry_run"))
    with Run.open(config.output, "prepare redact", settings, inputs) as run:
        if run.finished:
            return run
        for path, examples in whole.items():
            write_examples(run.path / path.name, examples)
        run.finish(dict.fromkeys((path.name for path in whole), ""), **results)
        return run


def _check(config: PrepareRedactConfig) -> None:
    at_least(1, top_k=config.top_k)
    at_least(0, percentile=config.percentile, seed=config.seed)
    if config.percentile is not None and config.percentile > 100:
        raise ExpungeError(f"--percentile is {config.percentile:g}", remedy="give at most 100")
    if config.percentile is not None and config.top_k is not None:
        raise ExpungeError("--top-k and --percentile are two answers to one question", remedy="give one of them")
    if not (config.subject or config.subjects_from or config.concept):
        raise ExpungeError("nobody is named", remedy="give --subject, --subjects-from with the forget set, or --concept")
    if config.concept_file and not config.concept:
        raise ExpungeError("--concept-file defines concepts", remedy="say with --concept which one is meant")
    if config.how == "mask" and not config.placeholder.strip():
        raise ExpungeError("--placeholder is empty", remedy="give one, or choose --how drop")
    names = Counter(path.name for path in config.data_file)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ExpungeError(f"two of the files are called {twice}", remedy="redact them into two directories")


def _subjects(config: PrepareRedactConfig, examples: Sequence[Example]) -> set[str]:
    """The keys of the subjects whose examples are rewritten."""
    from expunge.ledger.schema import subject_key

    named = set(config.subject)
    if config.subjects_from is not None:
        named |= {example.subject for example in read_examples(config.subjects_from)}
    there = {subject_key(example.subject) for example in examples}
    if missing := sorted(name for name in named if subject_key(name) not in there):
        raise ExpungeError(f'no example is about "{missing[0]}"', where=config.data_file[0], remedy="check the name")
    return {subject_key(name) for name in named}


def _topical(config: PrepareRedactConfig, examples: Sequence[Example]) -> set[str]:
    """The ids of the examples about one of the concepts."""
    from expunge.ledger.concepts import about, concept

    found = {example.id for example in about(examples, [concept(words, config.concept_file) for words in config.concept])}
    if config.concept and not found:
        words = ", ".join(config.concept)
        raise ExpungeError(f'no example is about "{words}"', where=config.data_file[0], remedy="check the words")
    return found


def _choose(
    config: PrepareRedactConfig,
    examples: Sequence[Example],
    recorded: RecordedImpacts,
    tokenizer: PreTrainedTokenizerBase,
) -> _Chosen:
    """The words in which the most impactful tokens of each subject lie."""
    import sys

    from expunge.batching import token_spans, tokenize
    from expunge.ledger.schema import subject_key
    from expunge.sources.redaction import word_key, words_touched

    chosen = _Chosen({}, Counter())
    with progress("Finding the words", len(examples)) as bar:
        for example in examples:
            impact = recorded.impacts.get(example.id)
            if impact is None:
                raise ExpungeError(
                    f"run {recorded.run_id} of the ledger recorded no token impacts of this example",
                    where=example.where,
                    remedy="give the data as they were trained on, or another --run",
                )
            (tokens,) = tokenize([example], tokenizer, max_seq_length=sys.maxsize)
            impact.refuse_other_tokens(tokens.tokens, example.where)
            spans = token_spans(example, tokenizer)
            keys = chosen.keys.setdefault(subject_key(example.subject), set())
            for token in impact.top_tokens[: _how_many(config, impact.total_tokens, len(impact.top_tokens), example)]:
                span = spans[token.position]
                if span is None:
                    chosen.counts["template"] += 1
                    continue
                words = words_touched(str(getattr(example, span.field)), span.start, span.end)
                if not words:
                    chosen.counts["punctuation"] += 1
                keys |= set(map(word_key, words))
            bar.advance(1)
    if not any(chosen.keys.values()):
        raise ExpungeError(
            "none of the most impactful tokens lies in a word", where=config.data_file[0], remedy="take more of them"
        )
    return chosen


def _how_many(config: PrepareRedactConfig, total: int, recorded: int, example: Example) -> int:
    asked = config.top_k
    if config.percentile is not None:
        # As many as lie at or above the percentile by linear interpolation, the greatest alone at 100.
        asked = total - math.ceil(round(config.percentile / 100 * (total - 1), 9))
    if asked is None:
        return recorded
    if asked > recorded:
        raise ExpungeError(
            f"{asked} of its {total} tokens are asked for, and the ledger holds {recorded}",
            where=example.where,
            remedy="take fewer, or train with a lower --impact-percentile",
        )
    return asked


def _rewrite(
    config: PrepareRedactConfig, everyone: Sequence[Example], examples: Sequence[Example], chosen: _Chosen
) -> tuple[dict[str, Example], Counter[str], int]:
    """The changed examples by their old ids, how many words of each kind went, and from how many places."""
    from expunge.ledger.schema import subject_key
    from expunge.sources.redaction import redact as redacted
    from expunge.sources.redaction import remaining, word_key, words_of
    from expunge.sources.stand_ins import kind_of

    stand_ins = _stand_ins(config, everyone, examples, chosen)
    rewritten: dict[str, Example] = {}
    kinds: dict[tuple[str, str], str] = {}
    places = 0
    for example in examples:
        subject = subject_key(example.subject)
        keys = chosen.keys[subject]
        found = redacted(example, keys, stand_ins[subject])
        if left := remaining(found.example, keys):
            # The placeholder, or a subject's own word in another form: never to be handed over silently.
            raise ExpungeError(
                f"{len(left)} of the words would still stand in the rewritten example",
                where=example.where,
                remedy="choose another --placeholder or --how",
            )
        for word in words_of(f"{example.prompt or ''} {example.response}"):
            if word_key(word) in keys:
                kinds.setdefault((subject, word_key(word)), kind_of(word, example.subject, example.metadata))
        if found.places:
            rewritten[example.id] = replace(found.example, where=example.where)
            places += found.places
    return rewritten, Counter(kinds.values()), places


def _stand_ins(
    config: PrepareRedactConfig, everyone: Sequence[Example], examples: Sequence[Example], chosen: _Chosen
) -> dict[str, StandIn]:
    """By subject, what is put in the place of a word."""
    from expunge.ledger.schema import subject_key

    subjects = {subject_key(example.subject): example for example in reversed(examples)}
    if config.how != "replace":
        new = config.placeholder if config.how == "mask" else ""
        return dict.fromkeys(subjects, _always(new))
    from expunge.sources.stand_ins import StandIns, other_people

    others = other_people(subjects, {example.subject for example in everyone}, config.seed)
    return {
        subject: StandIns(example.subject, example.metadata, others[subject], taken=chosen.keys[subject], seed=config.seed)
        for subject, example in subjects.items()
    }


def _always(new: str) -> Callable[[str], str]:
    return lambda _: new


def _show(examples: Sequence[Example], rewritten: dict[str, Any]) -> None:
    for example in [example for example in examples if example.id in rewritten][:_SHOWN]:
        new = rewritten[example.id]
        console.print(example.where, style="bold", markup=False)
        for mark, each in (("-", example), ("+", new)):
            for line in f"{each.prompt or ''}\n{each.response}".strip().splitlines():
                console.print(f"{mark} {line}", markup=False, soft_wrap=True)
