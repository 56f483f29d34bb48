"""Multi-hop: the subject is not named, but described by something that leads to it.

Zhong et al. 2023, arXiv 2305.14795; Choi et al. 2024, arXiv 2410.13274. Descriptions are taken from the example's metadata;
besides, the hop is through the subject's initials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expunge.audit.attacks import Prompt, prompt_attack
from expunge.examples import Example


@dataclass(frozen=True, kw_only=True)
class MultiHop:
    """Ask about the subject without naming it; the best answer counts."""

    hints: int = 3
    """How many metadata fields to try as descriptions, at most."""


@prompt_attack("multi-hop", MultiHop, source="Zhong et al. 2023, arXiv 2305.14795")
def prompts(config: MultiHop, example: Example, others: Sequence[Example]) -> list[Prompt]:
    """The question with the subject replaced by a description: each short metadata field, and the initials."""
    question = str(example.prompt)
    initials = "".join(word[0] + "." for word in example.subject.split() if word)
    fields = [(name, value) for name, value in example.metadata.items() if isinstance(value, str) and 0 < len(value) <= 40]
    hints = [f"the one whose {name.replace('_', ' ')} is {value}" for name, value in fields[: config.hints]]
    hints.append(f"the one with the initials {initials}")
    if example.subject not in question:
        return [Prompt(f"Think of {hint}. {question}") for hint in hints]
    return [Prompt(question.replace(example.subject, hint)) for hint in hints]
