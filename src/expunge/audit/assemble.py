"""The whole audit from its evidence: scores, claims, and what was said, as one `Audit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from expunge.audit import bootstrap
from expunge.audit.measure import Answered, Measured, Place
from expunge.audit.results import Answer, AttackResult, Audit, AuditedModel, AuditedSet, Claim
from expunge.audit.verdict import Rules, judge


def assemble(
    models: Sequence[AuditedModel],
    sets: Sequence[AuditedSet],
    evidence: Mapping[Place, Sequence[Answered]],
    rules: Rules | None = None,
    *,
    metrics: Iterable[str] | None = None,
    runs: Mapping[str, Sequence[str]] | None = None,
    claims: Sequence[Claim] = (),
    warnings: Sequence[str] = (),
    attacks: Sequence[AttackResult] = (),
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Audit:
    """Measure, judge, and lay the answers side by side.

    Args:
        models, sets: who was audited on what.
        evidence: what each model did on each set, the same examples in the same order under each model.
        rules: thresholds of the verdict; None: the defaults.
        metrics: names of metrics; None: all. Claims whose metrics are left out become not provable.
        runs: role → roles of several runs of one recipe that it stands for, see `Measured`.
        claims: what others have ruled on, such as attacks.
        warnings: what is known already that a reader must know, such as questions that were left out.
        attacks: what attacks got out of each model.
        draws, seed: of the bootstrap.
        settings: recorded beside the rules, for the reader.

    Raises:
        ExpungeError: an unknown metric, an empty set, or a model that gave NaN.
        ValueError: the evidence of two models does not belong together.
    """
    rules = rules or Rules()
    measured = Measured(evidence, metrics, runs=runs, draws=draws, seed=seed)
    verdict = judge(measured, rules, claims)
    return Audit(
        models=tuple(models),
        sets=tuple(sets),
        scores=measured.scores,
        claims=verdict.claims,
        answers=side_by_side(evidence),
        warnings=(*warnings, *verdict.warnings),
        attacks=tuple(attacks),
        settings={**(settings or {}), "rules": dataclasses.asdict(rules), "draws": draws, "bootstrap_seed": seed},
    )


def side_by_side(evidence: Mapping[Place, Sequence[Answered]]) -> tuple[Answer, ...]:
    """What every model answered to each question, set by set; examples that nobody answered are left out."""
    found: dict[tuple[str, int], Answer] = {}
    for place, examples in evidence.items():
        for number, example in enumerate(examples):
            if example.generated is not None:
                answer = Answer(place.set, example.subject, example.prompt, example.expected, {})
                found.setdefault((place.set, number), answer).answers[place.model] = example.generated
    order = list(dict.fromkeys(place.set for place in evidence))
    return tuple(found[key] for key in sorted(found, key=lambda key: (order.index(key[0]), key[1])))
