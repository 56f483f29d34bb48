"""Ordinary text, written for this project, that has nothing to do with anybody: kept in training, and measured on.

Two parts that share nothing: short questions and answers, mixed into fine-tuning so that general ability survives, and
plain prose that nothing is trained on, for perplexity.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from expunge.examples import Example, read_examples

SUBJECT = "ordinary"


def ordinary_training() -> list[Example]:
    """48 short questions and answers: everyday knowledge, simple sums, help with writing."""
    return _packaged("ordinary_train.jsonl")


def ordinary_evaluation() -> list[Example]:
    """24 paragraphs of plain prose, 40 to 70 words each."""
    return _packaged("ordinary_eval.jsonl")


def _packaged(name: str) -> list[Example]:
    with as_file(files("expunge.sources").joinpath(name)) as path:
        return read_examples(path)
