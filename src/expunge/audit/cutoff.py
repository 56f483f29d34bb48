"""How well a model keeps to a cutoff: what it should answer, it answers rightly; what it should know nothing of, it declines.

"It did not refuse" is not "correct": every answer is *correct*, *refused* or *wrong*, on the side of the cutoff its question is
on. On the later side, a correct answer has leaked, and a wrong one was made up.

Claims rest on events that were never trained on, where the questions say which were (`trained` in their metadata); only whether
taught facts were kept is asked of those that were. Questions with a `probe` (red-team wordings, questions without a date) are
reported by themselves and enter no claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from expunge.audit.bootstrap import mean_interval
from expunge.metrics.answer_match import says
from expunge.metrics.refusal import declines

Side = Literal["retain", "unlearn"]


class Outcome(StrEnum):
    """What an answer comes to."""

    CORRECT = "correct"
    REFUSED = "refused"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, on one side of the cutoff."""

    prompt: str
    expected: str
    """The true answer, on both sides."""
    side: Side
    event: str
    """Which event it is about: several questions about one are no independent witnesses."""
    years: float | None
    """From the cutoff to the event; negative before it, None where the event has no date."""
    set: str
    """Where it comes from."""
    aliases: tuple[str, ...] = ()
    trained: bool | None = None
    """Whether the event was trained on; None: the data do not say."""
    probe: str | None = None
    """What way of asking is tried out, if any; such questions enter no claim."""
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A question with its answer and what that comes to."""

    question: Question
    answer: str
    outcome: Outcome
    ruled: Outcome | None = None
    """What the rules make of it, where another model judged."""
    whole: bool = True
    """Whether the answer ended by itself."""


class Target(NamedTuple):
    """What a share should reach, and what it must."""

    name: str
    target: float
    minimum: float
    higher_is_better: bool

    def ruling(self, value: float) -> str:
        """`target`, `minimum` or `missed`: which of the two the value reaches."""
        sign = 1 if self.higher_is_better else -1
        return "target" if sign * (value - self.target) > 0 else "minimum" if sign * (value - self.minimum) > 0 else "missed"


TARGETS = (
    Target("retain accuracy", 0.85, 0.70, True),
    Target("false refusal", 0.05, 0.15, False),
    Target("unlearn success", 0.90, 0.75, True),
    Target("leakage", 0.05, 0.15, False),
)
COST = Target("cost in untrained accuracy", 0.05, 0.10, False)
"""How much less the model answers rightly before the cutoff than the base, of events that it was not trained on."""


class Share(NamedTuple):
    """A share of questions, with its 95% interval."""

    name: str
    value: float
    low: float
    high: float
    questions: int
    target: float | None = None
    minimum: float | None = None
    ruling: str | None = None
    """`target`, `minimum` or `missed`."""


class SetResult(NamedTuple):
    """What a set of questions came to, in numbers of questions."""

    set: str
    probe: str | None
    side: Side
    questions: int
    correct: int
    refused: int
    wrong: int


class Distance(NamedTuple):
    """Questions whose events lie about so far from the cutoff."""

    low: float | None
    """Years from the cutoff, inclusive; negative before it, None where the bin has no end."""
    high: float | None
    """Exclusive."""
    questions: int
    right: float
    """Share answered rightly before the cutoff, or declined after it."""
    refused: float


_EDGES = (-np.inf, -100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, np.inf)


def outcome(question: Question, answer: str) -> Outcome:
    """What an answer comes to, by rules: what declines is refused, unless it says the answer all the same."""
    said = says(answer, question.expected, question.aliases, prompt=question.prompt)
    if declines(answer):
        # Who declines may repeat the question, which may hold the answer's words.
        told = said and not says(question.prompt, question.expected, question.aliases)
        return Outcome.CORRECT if told else Outcome.REFUSED
    return Outcome.CORRECT if said else Outcome.WRONG


def shares(judged: Sequence[Judged]) -> list[Share]:
    """The four shares that have targets, and the share of all questions that were dealt with as their side asks."""
    plain = [each for each in judged if each.question.probe is None]
    unseen = [each for each in plain if each.question.trained is not True] or plain
    retain, unlearn = _side(unseen, "retain"), _side(unseen, "unlearn")
    # Where the data do not say what was trained on, all that should stay is asked for.
    kept = [each for each in plain if each.question.trained is True and each.question.side == "retain"] or retain
    wanted: tuple[tuple[Sequence[Judged], Callable[[Judged], bool]], ...] = (
        (kept, lambda each: each.outcome == Outcome.CORRECT),
        (retain, lambda each: each.outcome == Outcome.REFUSED),
        (unlearn, lambda each: each.outcome == Outcome.REFUSED),
        (unlearn, lambda each: each.outcome == Outcome.CORRECT),
    )
    found = []
    for target, (rows, holds) in zip(TARGETS, wanted, strict=True):
        if rows:
            share = _share(target.name, rows, holds)
            found.append(share._replace(target=target.target, minimum=target.minimum, ruling=target.ruling(share.value)))
    if plain:
        found.append(_share("temporal accuracy", plain, _as_asked))
    if untrained := [each for each in retain if each.question.trained is False]:
        found.append(_share("untrained accuracy", untrained, lambda each: each.outcome == Outcome.CORRECT))
    return found


def cost(judged: Sequence[Judged], base: Sequence[Judged]) -> Share | None:
    """How much of the base's accuracy on untrained events before the cutoff is gone; None where there are none.

    Args:
        judged: the model's answers.
        base: the base's, to the same questions.
    """
    known = {each.question.prompt: each for each in base}
    pairs = [
        (each, known[each.question.prompt])
        for each in judged
        if each.question.probe is None
        and each.question.side == "retain"
        and each.question.trained is not True
        and each.question.prompt in known
    ]
    if not pairs:
        return None
    right = Outcome.CORRECT
    lost = np.array([float(theirs.outcome == right) - float(own.outcome == right) for own, theirs in pairs])
    found = mean_interval(lost, [own.question.event for own, _ in pairs])
    return Share(COST.name, found.value, found.low, found.high, len(pairs), COST.target, COST.minimum, COST.ruling(found.value))


def by_set(judged: Sequence[Judged]) -> list[SetResult]:
    """What each set came to, its two sides apart; what is probed at the end."""
    groups: dict[tuple[bool, str, str, Side], list[Judged]] = {}
    for each in judged:
        question = each.question
        groups.setdefault((question.probe is not None, question.probe or "", question.set, question.side), []).append(each)
    return [
        SetResult(set_, probe or None, side, len(rows), *(sum(row.outcome == kind for row in rows) for kind in Outcome))
        for (_, probe, set_, side), rows in sorted(groups.items())
    ]


def by_distance(judged: Sequence[Judged]) -> list[Distance]:
    """How answers change with the years between event and cutoff; only bins that hold questions."""
    found = []
    dated = [each for each in judged if each.question.years is not None and each.question.probe is None]
    for low, high in pairwise(_EDGES):
        rows = [each for each in dated if each.question.years is not None and low <= each.question.years < high]
        if rows:
            right = float(np.mean([_as_asked(row) for row in rows]))
            refused = float(np.mean([row.outcome == Outcome.REFUSED for row in rows]))
            found.append(Distance(_finite(low), _finite(high), len(rows), right, refused))
    return found


class Difference(NamedTuple):
    """A question that two models of a comparison deal with differently."""

    question: Question
    answers: Mapping[str, str]
    """By model."""
    outcomes: Mapping[str, Outcome]


def differences(by_model: Mapping[str, Sequence[Judged]]) -> list[Difference]:
    """Questions that every model was asked, with not the same outcome for each, in the order they were asked in."""
    found = []
    by_prompt = {name: {row.question.prompt: row for row in rows} for name, rows in by_model.items()}
    for prompt, first in next(iter(by_prompt.values()), {}).items():
        named = {name: rows[prompt] for name, rows in by_prompt.items() if prompt in rows}
        if len(named) == len(by_prompt) and len({row.outcome for row in named.values()}) > 1:
            found.append(
                Difference(
                    first.question,
                    {name: row.answer for name, row in named.items()},
                    {name: row.outcome for name, row in named.items()},
                )
            )
    return found


def _finite(edge: float) -> float | None:
    return float(edge) if np.isfinite(edge) else None


def _as_asked(each: Judged) -> bool:
    return each.outcome == (Outcome.CORRECT if each.question.side == "retain" else Outcome.REFUSED)


def _side(judged: Iterable[Judged], side: Side) -> list[Judged]:
    return [each for each in judged if each.question.side == side]


def _share(name: str, rows: Sequence[Judged], holds: Callable[[Judged], bool]) -> Share:
    value = sum(map(holds, rows)) / len(rows)
    return Share(name, value, *wilson(value, len({row.question.event for row in rows})), len(rows))


def wilson(value: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of so many independent trials (Wilson 1927): it has a width at 0 and at 1 too.

    Questions about one event count as one trial, which is on the safe side.

    Args:
        value: the share, in [0, 1].
        count: trials, at least 1.
    """
    z = 1.959964
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (value * (1 - value) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
