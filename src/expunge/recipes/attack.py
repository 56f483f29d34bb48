"""`expunge attack NAME`: try to get the forgotten back, from the unlearned model and from one that never knew it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.attacks import ATTACKS, Chosen, Given
from expunge.errors import ExpungeError, at_least
from expunge.examples import read_examples, refuse_overlap
from expunge.files import sha256, write_json
from expunge.progress import progress
from expunge.recipes.attack_answers import Attacked, Conditions, answered, plan_attack, questions_of, versions_of
from expunge.runs import Run, settings_of

if TYPE_CHECKING:
    from expunge.audit.results import AttackResult

ATTACK = "attack.json"
HELPED = "helper.jsonl"
"""What a helping server said, beside the answers."""
_ROLES = ("target", "unlearned", "retrained")


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Whom to attack, and about what."""

    unlearned: str
    """The model that is claimed to have forgotten."""
    forget: Path
    """Questions and answers that must be gone."""
    output: Path
    """Run directory; results go to its `attack.json`."""
    retrained: str | None = None
    """The reference that never saw the forget set; attacked in the same way. Without it nothing is proved."""
    target: str | None = None
    """The model that knows everything: what the attack gets where there is something to get. Without it nothing is proved."""
    others: Path | None = None
    """Questions and answers that are no secret, such as the retain set: shown as examples, or learnt."""
    evidence: Path | None = None
    """Folder that keeps the answers, to be shared between attacks; the run's own `evidence` when not given."""
    sample: int | None = None
    """Attack only the first so many examples."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    seed: int = 0
    """Fixes what is drawn, and the bootstrap."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""
    dry_run: bool = False
    """Say what would be asked, and write nothing."""


def attack(config: AttackConfig, name: str, settings: Any) -> Run | dict[str, Any]:
    """Ask every model, measure, rule; resumes if killed, answers at once if done. A dry run returns what would be asked."""
    from expunge.evidence import EvidenceStore
    from expunge.models import check_readable, load_plain, model_fingerprint

    chosen = Chosen(name, ATTACKS[name], settings)
    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads, sample=config.sample)
    at_least(0, seed=config.seed)
    forget = questions_of(read_examples(config.forget))[: config.sample]
    if not forget:
        raise ExpungeError("has no question to ask", where=config.forget, remedy="give examples with prompt and response")
    others = read_examples(config.others) if config.others else []
    refuse_overlap(forget, others)
    names = {"unlearned": config.unlearned} | ({"retrained": config.retrained} if config.retrained else {})
    names |= {"target": config.target} if config.target else {}
    for place in names.values():
        check_readable(place)
    given = Given(forget, others, config.seed)
    plan = plan_attack(chosen, given)
    if config.dry_run:
        return {"attack": name, "models": names, "examples": len(plan.asked), "prompts_a_model": plan.questions}
    fingerprints = {role: model_fingerprint(place) for role, place in names.items()}
    inputs = fingerprints | {"forget": sha256(config.forget)} | ({"others": sha256(config.others)} if config.others else {})
    own = settings_of(config, without=("output", "evidence", "threads", "dry_run", "forget", "others", *_ROLES))
    with Run.open(config.output, f"attack {name}", own | {"attack": settings_of(settings)}, inputs) as run:
        if run.finished:
            return run
        evidence = config.evidence or run.path / "evidence"
        with progress("Finding words", len(plan.asked)) as bar:
            plan = plan_attack(chosen, given._replace(kept=EvidenceStore(evidence / HELPED)), bar)
        conditions = Conditions(evidence, run.path / "work", config.max_seq_length, config.threads, load_plain)
        models = [Attacked(role, place, fingerprints[role]) for role, place in names.items()]
        ways = sum(len(versions_of(plan, model, conditions)) for model in models)
        results: list[AttackResult] = []
        with progress(f"Attack {name}", ways * plan.questions) as bar:
            for model in models:
                with run.timed(model.role):
                    results += answered(plan, model, conditions, bar)
                shutil.rmtree(conditions.work / model.role, ignore_errors=True)
        shutil.rmtree(conditions.work, ignore_errors=True)
        found = _judged(name, results, config.seed)
        write_json(run.path / ATTACK, found)
        table = {f"{each.model} {each.variant}".strip(): round(each.value, 4) for each in results}
        more = {"robustness": found["robustness"]} if "robustness" in found else {}
        claim = found["claim"]
        run.finish({ATTACK: ""}, attack=name, recall=table, **more, ruling=claim["ruling"], reason=claim["reason"])
        return run


def _judged(name: str, results: Sequence[AttackResult], seed: int) -> dict[str, Any]:
    from expunge.audit.attacks.relearn import relearning_robustness
    from expunge.audit.robust import robust

    claim = robust(results, seed=seed)
    found: dict[str, Any] = {"attack": name, "results": [asdict(result) for result in results], "claim": asdict(claim)}
    value = {(each.variant, each.model): each.value for each in results}
    ends = [(when, role) for role in ("retrained", "unlearned") for when in ("before", "after")]
    if all(end in value for end in ends):
        found["robustness"] = relearning_robustness(*(value[end] for end in ends))
    return found
