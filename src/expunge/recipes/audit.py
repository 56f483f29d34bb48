"""`expunge audit`: put target, unlearned, retrained and shipped model side by side, and rule on what was claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, refuse_overlap
from expunge.files import fingerprint, sha256
from expunge.recipes.audit_attacks import (
    Attacks,
    Tried,
    amount,
    attacked_models,
    conditions_of,
    given_to_attackers,
    plan_attacks,
    try_attacks,
)
from expunge.recipes.audit_config import AuditConfig
from expunge.recipes.audit_evidence import AskedSet, Recorded, record, still_to_record
from expunge.recipes.lm_eval_task import lm_eval_examples
from expunge.runs import Run, check_place, settings_of

if TYPE_CHECKING:
    from expunge.audit.results import Audit, AuditedModel
    from expunge.ledger import DeletionRequest

AUDIT = "audit.json"
_OF_THE_CLAIMS = ("forget", "retain", "holdout", "ordinary", "utility")


class _Audited(NamedTuple):
    """What an audit is of, checked."""

    metrics: Sequence[str]
    sets: list[AskedSet]
    models: dict[str, str]
    fingerprints: dict[str, str]
    attacks: Attacks | None
    """None: none were asked for."""


def audit(config: AuditConfig) -> Run:
    """Record evidence, try attacks, measure, judge; resumes if killed, answers at once if done.

    A dry run says how much there is to ask.
    """
    checked = _checked(config)
    metrics, sets, models, fingerprints, attacks = checked
    if config.dry_run:
        return _dry_run(config, checked)
    inputs = fingerprints | {set_.name: set_.fingerprint for set_ in sets}
    elsewhere = ("output", "evidence", "database", "threads", "concurrency", "set", "also_unlearned", "shipped", "dry_run")
    files = ("forget", "retain", "holdout", "ordinary", "target", "unlearned", "retrained")
    settings = settings_of(config, without=(*elsewhere, *files))
    with Run.open(config.output, "audit", settings, inputs) as run:
        if not run.finished:
            found = record(config, run, models, fingerprints, sets, metrics)
            tried = _attack(config, run, attacks, found, models, fingerprints) if attacks else Tried()
            result = _judge(config, found, tried, models, fingerprints, metrics)
            result.write(run.path / AUDIT)
            run.finish({AUDIT: ""}, claims=[[claim.model, claim.name, claim.ruling] for claim in result.claims])
        if config.database:
            # Of a finished audit too: it may have been killed just before, or have had no ledger to tell. Once is enough.
            _tell_ledger(config, run.results["claims"])
        return run


def _checked(config: AuditConfig) -> _Audited:
    """Everything that can be refused before a model is loaded.

    Raises:
        ExpungeError: a setting, a set, a model, an attack or the ledger cannot be used.
    """
    from expunge.audit.attacks import chosen
    from expunge.audit.wanted import metrics_wanted

    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads, concurrency=config.concurrency)
    at_least(8, samples=config.samples)
    at_least(0, seed=config.seed)
    metrics = metrics_wanted(config.metrics)
    asked_for = chosen(config.attacks)
    sets = _sets(config)
    models = _models(config)
    fingerprints = _fingerprints(config, models)
    attacks = None
    if asked_for:
        attacked, given = attacked_models(config, models, fingerprints), given_to_attackers(config, *_known(sets))
        attacks = plan_attacks(config, asked_for, attacked, given, conditions_of(config, config.output))
    if config.database:
        _requests(config)
    return _Audited(metrics, sets, models, fingerprints, attacks)


def _known(sets: Sequence[AskedSet]) -> tuple[Sequence[Example], Sequence[Example]]:
    """The forget and the retain set."""
    found = {set_.name: set_.examples for set_ in sets}
    return found["forget"], found["retain"]


def _attack(
    config: AuditConfig, run: Run, attacks: Attacks, found: Recorded, models: dict[str, str], fingerprints: dict[str, str]
) -> Tried:
    # Of the sets as they were asked, without the questions that do not fit.
    fitting = attacks._replace(given=given_to_attackers(config, *_known(found.sets)))
    return try_attacks(config, run, fitting, attacked_models(config, models, fingerprints))


def _dry_run(config: AuditConfig, checked: _Audited) -> Run:
    """How many examples each model would be asked about, how many of those are kept already, and what attacks would ask."""
    check_place(config.output)
    metrics, sets, models, fingerprints, attacks = checked
    results: dict[str, Any] = {"models": [*fingerprints], "sets": {set_.name: len(set_.examples) for set_ in sets}}
    results["examples to ask"] = still_to_record(config, models, fingerprints, sets, metrics)
    if attacks:
        attacked = attacked_models(config, models, fingerprints)
        results["attack questions"] = amount(attacks, attacked, conditions_of(config, config.output))
        results |= {"attacks left out": attacks.left_out} if attacks.left_out else {}
    return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})


def _sets(config: AuditConfig) -> list[AskedSet]:
    """The sets of the claims, checked against each other, and the further ones.

    Raises:
        ExpungeError: a file cannot be read, sets overlap that must not, or a further set has no name or a taken one.
    """
    files = {"forget": config.forget, "retain": config.retain, "holdout": config.holdout, "ordinary": config.ordinary}
    for given in config.set:
        name, _, file = given.partition("=")
        if not name or not file:
            raise ExpungeError(f'--set "{given}" names no file', remedy="write --set NAME=FILE")
        if name in files or name in _OF_THE_CLAIMS:
            raise ExpungeError(f'there is a set "{name}" already', remedy="give the further set another name")
        files[name] = Path(file)
    sets = [_set(name, file) for name, file in files.items()]
    forget, retain, holdout, _, *further = sets
    refuse_overlap(forget.examples, retain.examples)
    refuse_overlap([*forget.examples, *retain.examples], holdout.examples)
    for set_ in further:
        # Of the same people, another set may ask on purpose; the very same question would be counted on both sides.
        rows = {(example.prompt, example.response): example for example in set_.examples}
        for example in forget.examples:
            if twin := rows.get((example.prompt, example.response)):
                what = f"the same example also stands at {example.where}"
                raise ExpungeError(what, where=twin.where, remedy="drop it from one of the two")
    return sets


def _set(name: str, file: Path) -> AskedSet:
    if file.suffix in (".yaml", ".yml"):
        examples = lm_eval_examples(file)
        return AskedSet(name, file, examples, fingerprint([example.as_row() for example in examples]))
    return AskedSet(name, file, _distinct(read_examples(file)), sha256(file))


def _models(config: AuditConfig) -> dict[str, str]:
    """Role → name; several runs of the unlearned model are numbered.

    Raises:
        ExpungeError: a model is not there or is broken on disk, or a server has no address.
    """
    from expunge.models import check_readable

    unlearned = (config.unlearned, *config.also_unlearned)
    roles = [f"unlearned-{number}" for number in range(1, len(unlearned) + 1)] if config.also_unlearned else ["unlearned"]
    models = {"target": config.target, **dict(zip(roles, unlearned, strict=True))}
    models |= {"retrained": config.retrained} if config.retrained else {}
    if config.engine == "api":
        if not config.base_url:
            raise ExpungeError("--engine api needs the server's address", remedy="give --base-url")
        return models
    if config.base_url:
        raise ExpungeError("--base-url is for --engine api", remedy="give both or neither")
    for name in models.values():
        check_readable(name)
    return models


def _fingerprints(config: AuditConfig, models: dict[str, str]) -> dict[str, str]:
    from expunge.models import model_fingerprint

    if config.engine == "api":
        # A server does not tell which weights answer: the address and the name are all that is known.
        found = {role: fingerprint([config.base_url, name]) for role, name in models.items()}
    else:
        found = {role: model_fingerprint(name) for role, name in models.items()}
    if config.shipped:
        from expunge.deploy.gguf_file import read_gguf

        read_gguf(config.shipped)
        found["shipped"] = sha256(config.shipped)
    return found


def _judge(
    config: AuditConfig,
    found: Recorded,
    tried: Tried,
    models: dict[str, str],
    fingerprints: dict[str, str],
    metrics: Sequence[str],
) -> Audit:
    from expunge.audit.assemble import assemble
    from expunge.audit.results import AuditedModel, AuditedSet

    runs = [role for role in models if role.startswith("unlearned-")]
    audited = _audited(models | ({"shipped": str(config.shipped)} if config.shipped else {}), fingerprints)
    if runs:
        together = fingerprint([fingerprints[role] for role in runs])
        audited.insert(1, AuditedModel("unlearned", f"the {len(runs)} runs together", together))
    sets = [
        AuditedSet(
            set_.name,
            str(set_.file),
            set_.fingerprint,
            len(set_.examples),
            len({example.subject for example in set_.examples}),
        )
        for set_ in found.sets
    ]
    return assemble(
        audited,
        sets,
        found.answered,
        config.rules,
        metrics=metrics,
        runs={"unlearned": runs} if runs else {},
        claims=tried.claims,
        warnings=[*found.warnings, *tried.warnings],
        attacks=tried.results,
        seed=config.seed,
        settings={"metrics": [*config.metrics], **({"attacks": [*config.attacks]} if config.attacks else {})},
    )


def _audited(names: dict[str, str], fingerprints: dict[str, str]) -> list[AuditedModel]:
    from expunge.audit.results import AuditedModel

    return [AuditedModel(role, name, fingerprints[role]) for role, name in names.items()]


def _distinct(examples: list[Example]) -> list[Example]:
    """Plain texts about nobody in particular each count as a subject of their own: intervals are drawn over subjects."""
    return [replace(example, subject=example.id) if example.prompt is None else example for example in examples]


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
