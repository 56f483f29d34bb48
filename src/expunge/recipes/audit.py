"""`expunge audit`: put target, unlearned, retrained and shipped model side by side, and rule on what was claimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.audit.verdict import Rules
from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, refuse_overlap
from expunge.files import fingerprint, sha256
from expunge.progress import Bar, progress
from expunge.runs import Run, settings_of

if TYPE_CHECKING:
    from expunge.audit.measure import Answered, Place
    from expunge.audit.results import Audit, AuditedModel
    from expunge.evidence import EvidenceStore
    from expunge.ledger import DeletionRequest

AUDIT = "audit.json"
# Raise it when the passes change what they record, so that no old evidence is taken for new.
_EVIDENCE = 1


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Which models to ask about which examples, and what to hold them to."""

    target: str
    """The model that knows everything."""
    unlearned: str
    """The model that is claimed to have forgotten."""
    forget: Path
    """Examples that must be gone."""
    retain: Path
    """Examples that must still be known."""
    holdout: Path
    """Examples of the same kind, never trained on."""
    ordinary: Path
    """Ordinary text (`text` rows), for perplexity."""
    output: Path
    """Run directory; the audit goes to its `audit.json`."""
    retrained: str | None = None
    """The reference: trained on everything but the forget set. Without it the rules are weaker, and a warning says so."""
    shipped: Path | None = None
    """The GGUF file that is given away; llama.cpp asks it the forget and retain questions."""
    evidence: Path | None = None
    """Folder that keeps what was recorded, to be shared between audits; the run's own `evidence` when not given."""
    database: str | None = None
    """Ledger in which the deletion request is marked as audited: a path or a database URL."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    rules: Rules = field(default_factory=Rules)
    """Thresholds of the verdict."""
    seed: int = 0
    """Fixes the bootstrap."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""


class _Set(NamedTuple):
    name: str
    file: Path
    examples: Sequence[Example]
    fingerprint: str


def audit(config: AuditConfig) -> Run:
    """Record evidence, measure, judge; resumes if killed, answers at once if done."""
    from expunge.models import check_readable, model_fingerprint

    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads)
    at_least(0, seed=config.seed)
    files = {"forget": config.forget, "retain": config.retain, "holdout": config.holdout, "ordinary": config.ordinary}
    sets = [_Set(name, file, _distinct(read_examples(file)), sha256(file)) for name, file in files.items()]
    refuse_overlap(sets[0].examples, sets[1].examples)
    refuse_overlap([*sets[0].examples, *sets[1].examples], sets[2].examples)
    models = {"target": config.target, "unlearned": config.unlearned}
    models |= {"retrained": config.retrained} if config.retrained else {}
    for name in models.values():
        check_readable(name)
    fingerprints = {role: model_fingerprint(name) for role, name in models.items()}
    if config.shipped:
        from expunge.deploy.gguf_file import read_gguf

        read_gguf(config.shipped)
        fingerprints["shipped"] = sha256(config.shipped)
    inputs = fingerprints | {set_.name: set_.fingerprint for set_ in sets}
    if config.database:
        _requests(config)
    settings = settings_of(config, without=("output", "evidence", "database", "threads", *models, "shipped", *files))
    with Run.open(config.output, "audit", settings, inputs) as run:
        if not run.finished:
            found = _record(config, run, models, fingerprints, sets)
            result = _judge(config, found, models, fingerprints, sets)
            result.write(run.path / AUDIT)
            run.finish({AUDIT: ""}, claims=[[claim.model, claim.name, claim.ruling] for claim in result.claims])
        if config.database:
            # Of a finished audit too: it may have been killed just before, or have had no ledger to tell. Once is enough.
            _tell_ledger(config, run.results["claims"])
        return run


def _record(
    config: AuditConfig, run: Run, models: dict[str, str], fingerprints: dict[str, str], sets: Sequence[_Set]
) -> dict[Place, list[Answered]]:
    """What every model does with every set: recorded now, or kept from an earlier audit."""
    from expunge.audit.measure import Place
    from expunge.batching import tokenize
    from expunge.evidence import EvidenceStore, record_answers, record_scores
    from expunge.models import load_model, load_tokenizer, prepare_cpu

    place = config.evidence or run.path / "evidence"
    asked = [set_ for set_ in sets if set_.name in ("forget", "retain")]
    tokenizer = load_tokenizer(config.target)
    tokens = {set_.name: tokenize(set_.examples, tokenizer, max_seq_length=config.max_seq_length) for set_ in sets}
    # Room for an answer a quarter longer than any that is expected; who rambles on is cut there.
    most = max(example.labels for set_ in asked for example in tokens[set_.name]) * 5 // 4 + 8
    settings = fingerprint([_EVIDENCE, config.max_seq_length, most])[:8]

    def store(role: str, set_: _Set) -> EvidenceStore:
        return EvidenceStore(place / f"{fingerprints[role][:16]}-{set_.fingerprint[:16]}-{settings}.jsonl")

    found: dict[Place, list[Answered]] = {}
    prepare_cpu(config.threads)
    for role, name in models.items():
        stores = {set_.name: store(role, set_) for set_ in sets}
        total = sum(len(set_.examples) for set_ in (*sets, *asked))
        with run.timed(role), progress(f"Asking the {role} model", total) as bar:
            if _incomplete(stores, sets, asked):
                model: Any = load_model(name)
                # Adapters are folded in: two small products a layer fewer for every token.
                model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
                for set_ in sets:
                    record_scores(model, tokens[set_.name], stores[set_.name], pad=tokenizer.pad_token_id, bar=bar)
                for set_ in asked:
                    record_answers(model, tokenizer, set_.examples, stores[set_.name], max_new_tokens=most, bar=bar)
                del model
        for set_ in sets:
            found[Place(role, set_.name)] = list(_answered(set_, stores[set_.name]))
    if config.shipped:
        with run.timed("shipped"), progress("Asking the shipped file", sum(len(set_.examples) for set_ in asked)) as bar:
            for set_ in asked:
                answers = store("shipped", set_)
                _ask_shipped(config.shipped, set_.examples, answers, most, config.threads, bar)
                found[Place("shipped", set_.name)] = list(_answered(set_, answers))
    return found


def _judge(
    config: AuditConfig,
    found: dict[Place, list[Answered]],
    models: dict[str, str],
    fingerprints: dict[str, str],
    sets: Sequence[_Set],
) -> Audit:
    from expunge.audit.assemble import assemble
    from expunge.audit.results import AuditedSet

    return assemble(
        _audited(models | ({"shipped": str(config.shipped)} if config.shipped else {}), fingerprints),
        [
            AuditedSet(
                set_.name,
                str(set_.file),
                set_.fingerprint,
                len(set_.examples),
                len({example.subject for example in set_.examples}),
            )
            for set_ in sets
        ],
        found,
        config.rules,
        seed=config.seed,
    )


def _audited(names: dict[str, str], fingerprints: dict[str, str]) -> list[AuditedModel]:
    from expunge.audit.results import AuditedModel

    return [AuditedModel(role, name, fingerprints[role]) for role, name in names.items()]


def _distinct(examples: list[Example]) -> list[Example]:
    """Plain texts about nobody in particular each count as a subject of their own: intervals are drawn over subjects."""
    return [replace(example, subject=example.id) if example.prompt is None else example for example in examples]


def _incomplete(stores: dict[str, EvidenceStore], sets: Sequence[_Set], asked: Sequence[_Set]) -> bool:
    scored = all((example.id, "scores") in stores[set_.name] for set_ in sets for example in set_.examples)
    return not scored or not all((example.id, "generated") in stores[set_.name] for set_ in asked for example in set_.examples)


def _ask_shipped(
    file: Path, examples: Sequence[Example], store: EvidenceStore, most: int, threads: int | None, bar: Bar
) -> None:
    from expunge.deploy.llama_cpp import LlamaServer

    waiting = [example for example in examples if (example.id, "generated") not in store]
    bar.advance(len(examples) - len(waiting))
    if waiting:
        with LlamaServer(file, threads=threads) as server:
            answers = server.ask([str(example.prompt) for example in waiting], max_tokens=most)
            for example, answer in zip(waiting, answers, strict=True):
                store.add_answer(example.id, answer.text)
                bar.advance(1)


def _answered(set_: _Set, store: EvidenceStore) -> Iterator[Answered]:
    from expunge.audit.measure import Answered

    for example in set_.examples:
        record = store[example.id]
        yield Answered(example.subject, example.prompt or "", example.response, record.log_p_T, record.hits_T, record.generated)


def _tell_ledger(config: AuditConfig, claims: Sequence[Sequence[str]]) -> None:
    """Mark the deletion requests that cover the forget set as audited, with the verdict."""
    from expunge.ledger import Ledger

    verdict = {f"{model}: {name}": ruling for model, name, ruling in claims}
    with Ledger.open(str(config.database), create=False) as ledger:
        for request in _requests(config):
            if request.state in ("unlearned", "audited"):
                ledger.mark_audited(request.id, verdict=verdict)


def _requests(config: AuditConfig) -> list[DeletionRequest]:
    """The deletion requests whose people, or entries, are all in the forget set.

    Raises:
        ExpungeError: there is no ledger, or none in it.
    """
    from expunge.ledger import Ledger
    from expunge.ledger.schema import subject_key

    examples = read_examples(config.forget)
    people = {subject_key(example.subject) for example in examples}
    with Ledger.open(str(config.database), create=False) as ledger:
        covered = {request.id for request in ledger.requests_covered_by(example.id for example in examples)}
        found = [
            request
            for request in ledger.requests()
            if request.id in covered or (request.subjects and people.issuperset(map(subject_key, request.subjects)))
        ]
    if not found:
        what = "no deletion request covers the forget set"
        raise ExpungeError(what, where=config.database, remedy="unlearn with --database first")
    return found
