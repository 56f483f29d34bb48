"""Few-shot: other people's questions and answers stand before the question, and show what an answer looks like.

Lynch et al. 2024, arXiv 2402.16835, who brought knowledge back with examples in the context.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from expunge.audit.attacks import Given, Prompt, prompt_attack
from expunge.errors import ExpungeError
from expunge.examples import Example


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Show other people's questions and answers first."""

    shots: int = 2
    """How many are shown."""
    draws: int = 2
    """How many times others are drawn; the best answer counts."""


@prompt_attack(
    "few-shot",
    FewShot,
    source="Lynch et al. 2024, arXiv 2402.16835",
    holds="a place to ask, the question, and other people's questions and answers",
)
def prompts(config: FewShot, example: Example, given: Given) -> list[Prompt]:
    """The question after `shots` others with their answers, never of the same subject.

    Raises:
        ExpungeError: there is nobody to show.
    """
    shown = [other for other in given.others if other.prompt is not None and other.subject != example.subject]
    if not shown:
        raise ExpungeError("few-shot shows other people's answers, and none were given", remedy="give --others")
    found = []
    for draw in range(config.draws):
        chosen = random.Random(f"{given.seed}/{example.id}/{draw}").sample(shown, min(config.shots, len(shown)))
        before = "".join(f"Question: {other.prompt}\nAnswer: {other.response}\n\n" for other in chosen)
        found.append(Prompt(f"{before}Question: {example.prompt}\nAnswer:"))
    return found
