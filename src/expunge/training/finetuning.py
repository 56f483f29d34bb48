"""The objective of fine-tuning."""

from __future__ import annotations

from expunge.training.objective import Losses, Scores


def answer_loss(examples: Scores, retain: Scores | None) -> Losses:
    """Mean negative log-likelihood of the answers' tokens; prompts are not learnt."""
    # The Trainer wants one tensor; there is no other side.
    return Losses(forget=examples.nll, retain=examples.nll.detach() * 0)
