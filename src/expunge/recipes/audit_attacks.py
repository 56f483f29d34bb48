"""The attacks of an audit: which of them the given models allow, what they get out of each model, and the claim `robust`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.audit.attacks import EXTRACTION, Chosen, Given
from expunge.errors import ExpungeError
from expunge.examples import Example, write_examples
from expunge.progress import progress
from expunge.recipes.attack import HELPED
from expunge.recipes.attack_answers import (
    Attacked,
    Conditions,
    Plan,
    answered,
    plan_attack,
    questions_of,
    versions_of,
)

if TYPE_CHECKING:
    from expunge.audit.results import AttackResult, Claim
    from expunge.audit.verdict import Finding
    from expunge.recipes.audit_config import AuditConfig
    from expunge.runs import Run

FOLDER = "attacks"


class Attacks(NamedTuple):
    """What is to be tried."""

    plans: list[Plan]
    """The attacks on one model at a time."""
    pairs: list[Chosen]
    """Those on two checkpoints."""
    left_out: dict[str, str]
    """Label → why it is not tried."""
    given: Given

    def of(self, model: Attacked) -> list[Plan]:
        """Those that can be tried on that model."""
        return [plan for plan in self.plans if not why_not(plan, model)]


class Tried(NamedTuple):
    """What came of it."""

    results: tuple[AttackResult, ...] = ()
    claims: tuple[Claim, ...] = ()
    warnings: tuple[str, ...] = ()


def why_not(plan: Plan, model: Attacked) -> str:
    """Why an attack cannot be tried on a model; empty where it can."""
    if model.kind == "weights":
        return ""
    where = "a GGUF file" if model.kind == "file" else "a server"
    if plan.chosen.attack.versions:
        return f"it changes weights, and {where} only gives answers"
    return f"it begins the answer, which {where} does not allow" if plan.begins else ""


def plan_attacks(
    config: AuditConfig, chosen: Sequence[Chosen], models: Sequence[Attacked], given: Given, conditions: Conditions
) -> Attacks:
    """What can be tried, and why the rest cannot.

    Args:
        config: of the audit.
        chosen: what was asked for.
        models: who is attacked.
        given: what the attacker has.
        conditions: how models are asked.

    Raises:
        ExpungeError: an attack cannot be tried that was asked for by name; one of `all` is left out instead.
    """
    found = Attacks([], [], {}, given)
    first = models[0]
    for one in chosen:
        try:
            if not given.forget:
                raise ExpungeError("the forget set has no question to ask", remedy="give examples with prompt and response")
            if one.attack.name == EXTRACTION:
                _check_pair(config, one, models)
                found.pairs.append(one)
                continue
            plan = plan_attack(one, given)
            if reason := why_not(plan, first):
                raise ExpungeError(f"{one.label} cannot be tried here: {reason}", remedy="leave it out")
            for model in models:
                if not why_not(plan, model):
                    versions_of(plan, model, conditions)
            found.plans.append(plan)
        except ExpungeError as error:
            if one.by_name:
                raise
            found.left_out[one.label] = str(error)
    return found


def _check_pair(config: AuditConfig, one: Chosen, models: Sequence[Attacked]) -> None:
    from expunge.audit.attacks.extraction import refuse_other_tokenizers
    from expunge.models import load_tokenizer

    if config.engine == "api":
        raise ExpungeError("extraction reads two models at once, and a server only gives answers", remedy="leave it out")
    one.settings.check()
    if {*one.settings.weight} <= {0, 1}:
        # Each model alone is no attack, and nothing may pass that was not tried.
        raise ExpungeError(f"{one.label} never reads both checkpoints", remedy="give a weight other than 0 and 1")
    target = load_tokenizer(config.target)
    for model in models:
        if model.role != "target" and model.kind == "weights":
            refuse_other_tokenizers(target, load_tokenizer(model.name), model.name)


def given_to_attackers(config: AuditConfig, forget: Sequence[Example], retain: Sequence[Example]) -> Given:
    """What the data give: questions of the forget set, and the retain set as others."""
    return Given(questions_of(forget), retain, config.seed)


def attacked_models(config: AuditConfig, models: Mapping[str, str], fingerprints: Mapping[str, str]) -> list[Attacked]:
    """Every model, who gives answers alone last."""
    kind: Any = "server" if config.engine == "api" else "weights"
    found = [Attacked(role, name, fingerprints[role], kind) for role, name in models.items()]
    if config.shipped:
        found.append(Attacked("shipped", str(config.shipped), fingerprints["shipped"], "file"))
    return found


def conditions_of(config: AuditConfig, place: Path) -> Conditions:
    """How models are asked in the audit whose run directory that is."""
    import os

    from expunge.deploy.chat_api import ChatApi
    from expunge.models import load_plain

    def server(name: str) -> ChatApi:
        return ChatApi(str(config.base_url), key=config.api_key or os.environ.get("OPENAI_API_KEY"), model=name)

    evidence = config.evidence or place / "evidence"
    work = place / FOLDER / "work"
    return Conditions(evidence, work, config.max_seq_length, config.threads, load_plain, server, config.concurrency)


def amount(attacks: Attacks, models: Sequence[Attacked], conditions: Conditions) -> dict[str, int]:
    """Label → how many questions it puts to all models together; of two checkpoints, how many answers they write."""
    found = dict.fromkeys((plan.chosen.label for plan in attacks.plans), 0)
    for model in models:
        for plan in attacks.of(model):
            found[plan.chosen.label] += plan.questions * len(versions_of(plan, model, conditions))
    pairs = len([model for model in models if model.role != "target" and model.kind == "weights"])
    asked = {one.label: pairs * len({0, 1, *one.settings.weight}) for one in attacks.pairs}
    return found | {label: ways * len(attacks.given.forget) for label, ways in asked.items()}


def try_attacks(config: AuditConfig, run: Run, attacks: Attacks, models: Sequence[Attacked]) -> Tried:
    """Try every attack on every model, and rule; resumes if killed, and asks nothing twice."""
    from expunge.audit.robust import together

    warnings = [f"The attack {label} was not tried: {reason}." for label, reason in attacks.left_out.items()]
    warnings += _not_on_the_shipped(attacks, models)
    with run.timed(FOLDER):
        results = _answered(config, run, attacks, models)
        for one in attacks.pairs:
            found = _extracted(config, run, one, models, attacks.given)
            results += found
            warnings += _without_headroom(one, found)
    runs = [model.role for model in models if model.role.startswith("unlearned-")]
    results += together(results, runs, config.seed) if runs else []
    results, claims = _ruled(config, results, runs)
    return Tried(tuple(results), tuple(claims), tuple(warnings))


def _answered(config: AuditConfig, run: Run, attacks: Attacks, models: Sequence[Attacked]) -> list[AttackResult]:
    """What each attack on one model at a time got out of each."""
    from expunge.evidence import EvidenceStore

    last = _Last()
    conditions = conditions_of(config, run.path)._replace(load=last.load)
    given = attacks.given._replace(kept=EvidenceStore(conditions.evidence / HELPED))
    with progress("Finding words", sum(len(plan.asked) for plan in attacks.plans)) as bar:
        plans = [plan_attack(plan.chosen, given, bar) for plan in attacks.plans]
    # Those by words first: they share one model as it is, which is then let go.
    attacks = attacks._replace(plans=sorted(plans, key=lambda plan: plan.chosen.attack.versions is not None))
    results: list[AttackResult] = []
    steps = sum(amount(attacks._replace(pairs=[]), models, conditions).values())
    with progress("Attacking", steps) as bar:
        for model in models:
            for plan in attacks.of(model):
                if plan.chosen.attack.versions:
                    last.drop()
                results += answered(plan, model, conditions, bar)
            last.drop()
            shutil.rmtree(conditions.work / model.role, ignore_errors=True)
    shutil.rmtree(conditions.work, ignore_errors=True)
    return results


def _ruled(config: AuditConfig, results: list[AttackResult], runs: Sequence[str]) -> tuple[list[AttackResult], list[Claim]]:
    """The results with their rulings, and the claims about the unlearned and the shipped model."""
    from expunge.audit.robust import findings, robust

    ruled = [each for each in results if not _is_without_headroom(each.attack, results)]
    claims = []
    for role in ("unlearned", *(["shipped"] if any(each.model == "shipped" for each in results) else [])):
        options: dict[str, Any] = {"role": role, "runs": runs if role == "unlearned" else (), "seed": config.seed}
        claims.append(robust(ruled, config.rules, **options))
        made = findings(ruled, config.rules, **options)
        results = [_with_ruling(each, made) if each.model == role else each for each in results]
    return results, claims


def _with_ruling(result: AttackResult, made: Mapping[tuple[str, str], Finding]) -> AttackResult:
    found = made.get((result.attack, result.variant))
    return replace(result, ruling=found.ruling, reason=found.reason) if found else result


class _Last:
    """Keeps the model that was loaded last, since several attacks ask the same one."""

    def __init__(self) -> None:
        self._name = ""
        self._model: Any = None

    def load(self, name: str) -> Any:
        from expunge.models import load_plain

        if self._model is None or self._name != name:
            self.drop()
            self._name, self._model = name, load_plain(name)
        return self._model

    def drop(self) -> None:
        self._model = None


def _not_on_the_shipped(attacks: Attacks, models: Sequence[Attacked]) -> Iterator[str]:
    for model in models:
        reasons: dict[str, list[str]] = {}
        for plan in attacks.plans:
            if reason := why_not(plan, model):
                reasons.setdefault(reason, []).append(plan.chosen.label)
        for reason, labels in reasons.items():
            yield f"Not tried on the {model.role} file: {', '.join(labels)} ({reason})."


def _extracted(config: AuditConfig, run: Run, one: Chosen, models: Sequence[Attacked], given: Given) -> list[AttackResult]:
    """What the target gives away with each other model, by the weight that gives most, and what it says alone."""
    from expunge.audit.robust import ALONE
    from expunge.recipes.extraction import EXTRACTION as SCORES
    from expunge.recipes.extraction import ExtractionConfig, extraction

    # What does not fit the models was left out of the audit; so it is here.
    forget = run.path / FOLDER / "forget.jsonl"
    if not forget.exists():
        forget.parent.mkdir(exist_ok=True)
        write_examples(forget, given.forget)
    found: list[AttackResult] = []
    for model in models:
        if model.role == "target" or model.kind != "weights":
            continue
        done = extraction(
            ExtractionConfig(
                pre=config.target,
                post=model.name,
                forget=forget,
                output=run.path / FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', one.label)}-{model.role}",
                evidence=config.evidence or run.path / "evidence",
                max_seq_length=config.max_seq_length,
                threads=config.threads,
            ),
            one.settings,
        )
        assert not isinstance(done, dict)
        rows = json.loads((done.path / SCORES).read_text("utf-8"))["rows"]
        alone = next(row for row in rows if row["weight"] == 1)
        best = max((row for row in rows if row["weight"] not in (0, 1)), key=lambda row: row["recall"])
        later = next(row for row in rows if row["weight"] == 0)
        if not found:
            found.append(_of_row(one, "", "target", alone["recall_B"], given, 1))
        found.append(_of_row(one, "", model.role, best["recall_B"], given, len(rows) - 2))
        found.append(_of_row(one, ALONE, model.role, later["recall_B"], given, 1))
    return found


def _of_row(one: Chosen, variant: str, role: str, recall_B: Sequence[float], given: Given, ways: int) -> AttackResult:
    import numpy as np

    from expunge.audit import bootstrap
    from expunge.audit.results import AttackResult

    subjects = tuple(example.subject for example in given.forget)
    interval = bootstrap.mean_interval(np.array(recall_B), subjects, seed=given.seed)
    return AttackResult(one.label, variant, role, *interval, tuple(recall_B), (), subjects, ways * len(subjects))


def _is_without_headroom(label: str, results: Sequence[AttackResult]) -> bool:
    from expunge.audit.robust import has_headroom

    alone = next((each for each in results if (each.attack, each.model) == (label, "target")), None)
    return label.split(" ")[0] == EXTRACTION and alone is not None and not has_headroom(alone)


def _without_headroom(one: Chosen, results: Sequence[AttackResult]) -> Iterator[str]:
    if _is_without_headroom(one.label, results):
        yield (
            f"The attack {one.label} is not ruled on: the target alone says nearly everything, so a second checkpoint has "
            "nothing to add to it."
        )
