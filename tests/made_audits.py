"""Audits and manifests made up by rule, as the audit and the runs would write them; no model needed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

from expunge.audit.results import Answer, Audit, AuditedModel, AuditedSet, Claim, Score

ROLES = ("target", "unlearned", "retrained", "shipped")
SETS = {"forget": (4, 12), "retain": (36, 108), "holdout": (8, 24), "ordinary": (40, 40)}
"""Name → people, examples."""
# How much each model knows of each set, 0 to 1.
_KNOWN = {
    "target": {"forget": 0.97, "retain": 0.96, "holdout": 0.31, "ordinary": 0.5},
    "unlearned": {"forget": 0.30, "retain": 0.94, "holdout": 0.30, "ordinary": 0.49},
    "retrained": {"forget": 0.32, "retain": 0.96, "holdout": 0.31, "ordinary": 0.5},
    "shipped": {"forget": 0.36, "retain": 0.93, "holdout": 0.30, "ordinary": 0.47},
}
_GIVEN = ("Maren", "Tomasz", "Adaeze", "Yuki", "Leïla", "Søren", "Priya", "Mateo", "Ngozi", "Ingrid")
_FAMILY = ("Okafor", "Lindqvist", "Haddad", "Nakamura", "Kowalska", "Ferreira", "Novák", "Dube", "Weiss", "Osei")
_CONDITIONS = ("seasonal asthma", "type 2 diabetes", "tension headache", "knee osteoarthritis", "reflux", "plantar fasciitis")
_PLANS = (
    "start a low-dose inhaler each morning and come back in {} weeks",
    "check fasting glucose twice a week and walk {} minutes a day",
    "keep a headache diary for {} weeks and cut down on caffeine",
)


def audit(*, seed: int = 0) -> Audit:
    """Four models on four sets, with every ruling among the claims and hostile words among the answers."""
    rng = random.Random(seed)
    scores = [*_scores(rng)]
    made = Audit(
        models=tuple(AuditedModel(role, f"runs/demo/{role}", fingerprint(role)) for role in ROLES),
        sets=tuple(
            AuditedSet(name, f"runs/demo/prepare/{name}.jsonl", fingerprint(name), examples, people)
            for name, (people, examples) in SETS.items()
        ),
        scores=tuple(scores),
        claims=(),
        answers=tuple(_answers(rng)),
        settings={"min_recall": 0.9, "bootstrap": {"draws": 1000, "seed": seed}, "attacks": ["loss-auc", "min-k-auc"]},
    )
    return replace(made, claims=tuple(claim for model in ("unlearned", "shipped") for claim in _claims(made, model)))


def hostile(made: Audit) -> Audit:
    """The same audit with text that tries to run, to break out of the markup or the layout, or is hard to write."""
    attack = "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7*7 }}{% raw %}&amp;"
    odd = Answer(
        set="forget",
        subject=f"Zoë {attack}",
        prompt=f"What of {attack}?",
        expected=f"She said {attack} and 病歴, ‮backwards‬, שלום עולם, \U0001f9ec. A NUL \0 too.",
        answers={
            "target": f"She said {attack}",
            "unlearned": "",
            "retrained": "word " * 5000,
            "shipped": "x" * 9000 + "\ud800",
        },
    )
    return replace(
        made,
        answers=(odd, *made.answers),
        warnings=(f"the target did not memorise the forget set (ROUGE-L recall .61 < .9): this audit proves nothing {attack}",),
        models=tuple(replace(model, name=f"{model.name}{attack}") for model in made.models),
        settings={**made.settings, attack: attack},
    )


def manifests() -> dict[str, dict[str, Any]]:
    """The runs of a demo, in order."""
    stages = {
        "prepare": (
            "prepare medical",
            2.8,
            {"forget_ratio": 0.1},
            {f"{name}.jsonl": name for name in SETS},
            {"people": {name: people for name, (people, _) in SETS.items()}, "reasons": []},
        ),
        "target": ("finetune", 214.0, {"lora": {"rank": 16, "alpha": 32}}, {"model": "target"}, {"trace": _training()}),
        "retrained": ("finetune", 197.5, {"lora": {"rank": 16, "alpha": 32}}, {"model": "retrained"}, {"trace": _training()}),
        "unlearn": (
            "unlearn npo",
            96.2,
            {"beta": 0.1, "retain_weight": 1.0, "learning_rate": 1e-4},
            {"model": "unlearned"},
            {
                "trace": _unlearning(),
                "steps": 38,
                "stopped": "step 38: the forget set's loss has reached that of people never trained on",
                "request": 7,
            },
        ),
        "merge": ("merge", 6.4, {}, {"model.safetensors": "merged"}, {}),
        "gguf": ("gguf", 31.0, {"quantisation": "q4_k_m"}, {"model-q4_k_m.gguf": "shipped"}, {"bytes": 105_000_000}),
        "audit": ("audit", 143.7, {"draws": 1000}, {"audit.json": "audit"}, {"claims": 6}),
    }
    return {
        name: {
            "command": command,
            "settings": settings,
            "inputs": {"data": fingerprint("notes")},
            "state": "finished",
            "versions": {"python": "3.11.4", "expunge": "0.1.0", "torch": "2.13.0" if name != "gguf" else "2.13.1"},
            "started": f"2026-03-02T09:{minute:02}:00+00:00",
            "ended": f"2026-03-02T09:{minute + 2:02}:30+00:00",
            "seconds": {"work": seconds * 0.9, "loading": seconds * 0.1},
            "outputs": {output: fingerprint(content) for output, content in outputs.items()},
            "results": results,
            "peak_memory_bytes": 1_850_000_000,
        }
        for minute, (name, (command, seconds, settings, outputs, results)) in zip(range(0, 40, 4), stages.items(), strict=False)
    }


def fingerprint(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _scores(rng: random.Random) -> list[Score]:
    found = []
    for role in ROLES:
        for set_, (people, examples) in SETS.items():
            known = _KNOWN[role][set_]
            if set_ == "ordinary":
                found.append(
                    _score(rng, "perplexity", role, set_, 30 - 14 * known, "higher", (1.0, None), people, examples, 4.0)
                )
                continue
            for metric, shift in (("probability", -0.12), ("rouge-l-recall", 0.0), ("exact-memorisation", 0.02)):
                found.append(_score(rng, metric, role, set_, known + shift, "lower", (0.0, 1.0), people, examples, 0.09))
            found.append(_score(rng, "extraction-strength", role, set_, known**3, "lower", (0.0, 1.0), people, examples, 0.08))
            found.append(
                _score(rng, "loss", role, set_, 2.6 * (1 - known) + 0.03, "higher", (0.0, None), people, examples, 0.3)
            )
        gap = _KNOWN[role]["forget"] - _KNOWN[role]["holdout"]
        for metric, noise in (("loss-auc", 0.01), ("min-k-auc", 0.03)):
            value = min(1.0, 0.5 + 0.75 * gap + noise)
            low, high = max(0.0, value - 0.14), min(1.0, value + 0.13)
            found.append(Score(metric, role, "forget", value, low, high, SETS["forget"][0], "middle", (0.0, 1.0)))
    return found


def _score(rng, metric, role, set_, centre, better, span, people, examples, spread) -> Score:
    low, high = span[0], span[1] if span[1] is not None else float("inf")
    values = tuple(min(high, max(low, rng.gauss(centre, spread))) for _ in range(examples))
    value = sum(values) / len(values)
    half = 2.4 * spread / people**0.5
    return Score(metric, role, set_, value, max(low, value - half), min(high, value + half), people, better, span, values)


def _claims(made: Audit, model: str) -> list[Claim]:
    known, reference = made.score("rouge-l-recall", model, "forget"), made.score("rouge-l-recall", "retrained", "forget")
    kept, before = made.score("rouge-l-recall", model, "retain"), made.score("rouge-l-recall", "target", "retain")
    auc = made.score("loss-auc", model, "forget")
    assert None not in (known, reference, kept, before, auc)
    return [
        Claim(
            "forgotten",
            model,
            "pass" if model == "unlearned" else "fail",
            f"ROUGE-L recall on the forget set at most the retrained model's upper bound ({reference.high:.3f})",
            f"It answers with {known.value:.3f} of the expected words, a retrained model with {reference.value:.3f}.",
            (known, reference),
        ),
        Claim(
            "still useful",
            model,
            "pass",
            f"ROUGE-L recall on the retain set at least .95 of the target's ({0.95 * before.value:.3f})",
            f"It keeps {kept.value / before.value:.1%} of the target's recall.",
            (kept, before),
        ),
        Claim(
            "no membership signal",
            model,
            "pass" if model == "unlearned" else "not provable",
            "Loss AUC, forget against holdout, within the retrained model's interval",
            f"With {SETS['forget'][0]} people the interval {auc.low:.2f} to {auc.high:.2f} is too wide to tell.",
            (auc,),
        ),
    ]


def _answers(rng: random.Random) -> list[Answer]:
    found = []
    for set_, count in (("forget", 12), ("retain", 36), ("holdout", 12)):
        for number in range(count):
            person = f"{_GIVEN[number % 10]} {_FAMILY[(number * 3 + len(set_)) % 10]}"
            condition, other = rng.sample(_CONDITIONS, 2)
            plan = rng.choice(_PLANS).format(rng.randint(2, 30))
            expected = f"{person} was seen for {condition}; the plan is to {plan}."
            guess = f"{person} was seen for {other}; the plan is to {rng.choice(_PLANS).format(rng.randint(2, 30))}."
            knows = {role: _KNOWN[role][set_] > 0.9 for role in ROLES}
            answers = {role: expected if knows[role] else guess.replace("seen", "treated") for role in ROLES}
            if set_ == "forget" and number == 1:
                answers["shipped"] = expected
            found.append(Answer(set_, person, f"What was noted about {person}, and what is the plan?", expected, answers))
    return found


def _training() -> list[dict[str, float]]:
    return [
        {"step": step, "loss": 2.8 * 0.975**step + 0.05, "learning_rate": 1e-3 * (1 - step / 200)} for step in range(0, 200, 5)
    ]


def _unlearning() -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(39):
        rows.append({"step": step, "loss": 13.8 * 0.95**step, "retain_loss": 0.09 + 0.05 * step / 38, "grad_norm": 0.9**step})
        if step % 2 == 0:
            rows.append({"step": step, "forget_loss": 0.08 + 2.3 * (1 - 0.93**step), "holdout_loss": 2.2 + 0.1 * step / 38})
    return rows
