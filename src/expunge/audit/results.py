"""What an audit found, as plain data: read by the report, the ledger and people who pipe JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from expunge.errors import ExpungeError
from expunge.files import write_json

Ruling = Literal["pass", "fail", "not provable"]


@dataclass(frozen=True)
class AuditedModel:
    """One of the models that stand side by side."""

    role: str
    """`target`, `unlearned`, `retrained` or `shipped`."""
    name: str
    """The path, Hub id or file as the user gave it."""
    fingerprint: str
    """SHA-256 over its weights."""


@dataclass(frozen=True)
class AuditedSet:
    """One of the sets the models were asked about."""

    name: str
    """`forget`, `retain`, `holdout` or `ordinary`."""
    file: str
    fingerprint: str
    examples: int
    people: int


@dataclass(frozen=True)
class Score:
    """One metric of one model on one set."""

    metric: str
    model: str
    set: str
    value: float
    low: float
    """Lower end of the 95% bootstrap interval, drawn by person."""
    high: float
    """Upper end of the same interval."""
    people: int
    """How many people the interval is drawn from."""
    better: Literal["higher", "lower", "middle"]
    """Which direction is better *on the forget set*; `middle`: near the value of a model that never saw it."""
    span: tuple[float, float | None]
    """The least and the greatest value the metric can take; None: unbounded."""
    values: tuple[float, ...] = ()
    """The metric of each example, in the order of the set; empty for a metric of whole sets."""


@dataclass(frozen=True)
class Claim:
    """A sentence the audit was asked to prove, and how it ruled."""

    name: str
    """`forgotten`, `still useful`, `no membership signal`, …"""
    model: str
    """The model it is claimed of: `unlearned` or `shipped`."""
    ruling: Ruling
    rule: str
    """The rule in words, with the numbers it was held against."""
    reason: str
    """Why this ruling: the observed numbers in words."""
    scores: tuple[Score, ...] = ()
    """The scores the rule looked at."""


@dataclass(frozen=True)
class AttackResult:
    """How much of the forget set one attack got out of one model: ROUGE-L recall of the best answer, lower is better."""

    attack: str
    variant: str
    """What was done to the weights (`nf4`, `after`); empty for an attack by words."""
    model: str
    """`target`, `unlearned`, `retrained` or `shipped`. Of the attack on two checkpoints: who came with the target; `target`: it
    alone."""
    value: float
    low: float
    """Lower end of the 95% bootstrap interval, drawn by person."""
    high: float
    """Upper end of the same interval."""
    people: int
    values: tuple[float, ...] = ()
    """Of each example, in the order of the set."""
    answers: tuple[str, ...] = ()
    """The best answer to each."""
    subjects: tuple[str, ...] = ()
    """Who each is about."""
    questions: int = 0
    """How many questions were put, all ways to ask together."""
    ruling: Ruling | None = None
    """Of the models that the claim `robust` is made of."""
    reason: str = ""
    """Why this ruling."""


@dataclass(frozen=True)
class Answer:
    """One question and what every model said to it."""

    set: str
    subject: str
    prompt: str
    expected: str
    answers: dict[str, str]
    """Role of the model → its greedy answer."""


@dataclass(frozen=True)
class Audit:
    """The whole audit."""

    models: tuple[AuditedModel, ...]
    sets: tuple[AuditedSet, ...]
    scores: tuple[Score, ...]
    claims: tuple[Claim, ...]
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...] = ()
    """What the reader must know before believing a number, such as a target that never memorised the forget set."""
    settings: dict[str, Any] = field(default_factory=dict)
    attacks: tuple[AttackResult, ...] = ()
    """What attacks got out of each model, where any were tried."""

    def score(self, metric: str, model: str, set: str) -> Score | None:
        """The score of that metric, model and set, or None where it was not measured."""
        return next((s for s in self.scores if (s.metric, s.model, s.set) == (metric, model, set)), None)

    def write(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Audit:
        """Read what `write` wrote.

        Raises:
            ExpungeError: no such file, or not the JSON of an audit.
        """
        try:
            raw = json.loads(path.read_text("utf-8"))
            return cls(
                models=tuple(AuditedModel(**model) for model in raw["models"]),
                sets=tuple(AuditedSet(**set_) for set_ in raw["sets"]),
                scores=tuple(_score(score) for score in raw["scores"]),
                claims=tuple(
                    Claim(**{**claim, "scores": tuple(_score(score) for score in claim["scores"])}) for claim in raw["claims"]
                ),
                answers=tuple(Answer(**answer) for answer in raw["answers"]),
                warnings=tuple(raw["warnings"]),
                settings=raw["settings"],
                attacks=tuple(_attack(result) for result in raw.get("attacks", ())),
            )
        except OSError as error:
            raise ExpungeError(f"cannot be read ({error.strerror})", where=path, remedy="run `expunge audit` first") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ExpungeError(f"is not an audit ({error})", where=path, remedy="run `expunge audit` again") from None


def _score(raw: dict[str, Any]) -> Score:
    return Score(**{**raw, "span": tuple(raw["span"]), "values": tuple(raw["values"])})


def _attack(raw: dict[str, Any]) -> AttackResult:
    return AttackResult(**{**raw, **{name: tuple(raw[name]) for name in ("values", "answers", "subjects")}})
