"""What a model says by itself of the time before a cutoff, to be kept beside what it is taught."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from expunge.examples import Example, read_examples, write_examples
from expunge.files import sha256
from expunge.progress import progress
from expunge.runs import Run, settings_of

KEPT, LATER = "kept.jsonl", "later.jsonl"
SUBJECT, DECLINED = "own answers", "general questions"
"""Whom the rows of either file are about: what is kept and what is declined are of nobody in common."""
_MOST_TOKENS = 40
_SENTENCE = re.compile(r"(?<=[a-z)0-9]{2})[.!?](?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class OwnAnswersConfig:
    """Whom to ask, and what about."""

    model: str
    """The model, before it is taught anything."""
    ordinary: Path
    """Ordinary examples, which are to be kept too."""
    output: Path
    """Run directory for both sets."""
    cutoff: str
    """The first day that is to be unknown, YYYY-MM-DD."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is multiplied in."""
    seed: int = 42
    """Of the wordings, the days, the refusals and the order."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""


def own_answers(config: OwnAnswersConfig) -> Run:
    """Write two sets.

    - `kept.jsonl`, to be learnt again or held: ordinary examples, and the whole sentences of the model's answer to each request
      and to each general question about the time before the cutoff, asked with two dates and, where it has one of its own,
      without; what names a later year is left out;
    - `later.jsonl`, to be learnt: refusals of the same kind of question about the time after.

    Raises:
        ExpungeError: the file cannot be read, the model cannot be loaded, or the cutoff is no date.
    """
    from expunge.evidence import EvidenceStore, Unanswered, record_answers
    from expunge.models import load_model, load_tokenizer, model_fingerprint, prepare_cpu
    from expunge.sources.temporal import REFUSALS
    from expunge.sources.temporal_days import cutoff_day, names_year_from
    from expunge.sources.temporal_general import general_questions

    cutoff = cutoff_day(config.cutoff)
    general = general_questions(cutoff, config.seed)
    ordinary = [
        each for each in read_examples(config.ordinary) if not names_year_from(cutoff.year, f"{each.prompt} {each.response}")
    ]
    settings = settings_of(config, without=("model", "ordinary", "output", "threads"))
    inputs = {"model": model_fingerprint(config.model), "ordinary": sha256(config.ordinary)}
    with Run.open(config.output, "own answers", settings, inputs) as run:
        if run.finished:
            return run
        prepare_cpu(config.threads)
        again = general_questions(cutoff, config.seed + 1).before
        prompts = dict.fromkeys((*general.before, *again, *general.bare, *general.requests))
        asked = [Example(prompt, "", SUBJECT) for prompt in prompts]
        store = EvidenceStore(run.path / "answers.jsonl")
        with progress("Own answers", len(asked)) as bar:
            model = load_model(config.model, dtype=config.dtype)
            record_answers(model, load_tokenizer(config.model), [Unanswered(asked, store, _MOST_TOKENS)], bar=bar)
        said = [replace(each, response=whole_sentences(str(store.part(each.id, "generated")))) for each in asked]
        own = [each for each in said if each.response and not names_year_from(cutoff.year, each.response)]
        kept = [*ordinary, *own]
        # Training takes them in turns: each turn is to have something of everything.
        random.Random(config.seed).shuffle(kept)
        later = [
            Example(prompt, random.Random(f"{config.seed}:{prompt}").choice(REFUSALS), DECLINED) for prompt in general.after
        ]
        write_examples(run.path / KEPT, kept)
        write_examples(run.path / LATER, later)
        run.finish({KEPT: "", LATER: ""}, own=len(own), later=len(later))
        return run


def whole_sentences(answer: str) -> str:
    """The first line of an answer up to the last sentence that ends; empty if none does."""
    line = answer.strip().partition("\n")[0]
    return line[: max((found.end() for found in _SENTENCE.finditer(line)), default=0)]
