"""Which metrics an audit measures, and which passes over which sets they ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from expunge.audit.verdict import NEEDED
from expunge.evidence import Asking, alternatives, asked_by, questions_asked
from expunge.examples import Example
from expunge.metrics import METRICS, Part

EVERYTHING = "all"
_PASSES = {
    "alternatives": (Part.PARAPHRASED, Part.PERTURBED),
    "scores": (Part.LOG_P, Part.HITS, Part.ENTROPY, Part.VARIANCE),
    "generated": (Part.GENERATED,),
    "letters": (Part.LETTERS,),
    "options": (Part.OPTIONS,),
    "permuted": (Part.PERMUTED,),
    "prefixed": (Part.PREFIXED,),
    "samples": (Part.SAMPLES,),
    "gradient": (Part.GRADIENT,),
    "layers": (Part.LENS, Part.HIDDEN),
}
"""Pass → what it records, in the order they are made: answers are scored with the other answers to their question."""
_FORGET_ALONE = ("prefixed", "samples")
_MEMBERSHIP = ("gradient", "layers")


def metrics_wanted(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the metrics to measure.

    Args:
        names: none: all but those whose evidence is dear. `all`: all. Names: these, beside those the verdict needs.

    Raises:
        ExpungeError: there is no metric of that name.
    """
    if EVERYTHING in names:
        return tuple(METRICS)
    if not names:
        return tuple(name for name in METRICS if not METRICS[name].dear)
    return tuple(dict.fromkeys([*NEEDED, *(METRICS[name].name for name in names)]))


def parts_wanted(metrics: Iterable[str]) -> frozenset[Part]:
    """The evidence that these metrics are made of."""
    made_of = [METRICS[part] for name in metrics for own in METRICS[name].of.values() for part in own]
    return frozenset(part for metric in (*made_of, *map(METRICS.__getitem__, metrics)) for part in (*metric.needs, *metric.may))


def passes(set: str, examples: Sequence[Example], parts: frozenset[Part], *, answers: bool) -> dict[str, int]:
    """The passes over a set, and how many steps each takes.

    Args:
        set: its name. What is dear is recorded where it tells something: on forget, and on the holdout it is held against.
        examples: of the set.
        parts: the evidence wanted.
        answers: whether questions of this set are to be answered, where they are open questions.
    """
    open_questions = [example for example in examples if not example.metadata.get("evaluation_only")]
    counts = {name: len(examples) for name in _PASSES}
    counts["scores"] = len(open_questions)
    asked = answers and all(example.prompt is not None for example in open_questions)
    counts["generated"] = len(open_questions) if asked else 0
    counts["alternatives"] = sum(bool(alternatives(example)) for example in examples)
    counts |= {
        "letters": questions_asked(examples, "letters"),
        "options": questions_asked(examples, "options"),
        "permuted": questions_asked(examples, "permuted"),
    }
    counts |= {name: 0 for name in _FORGET_ALONE if set != "forget"}
    counts |= {name: 0 for name in _MEMBERSHIP if set not in ("forget", "holdout")}
    return {name: counts[name] for name, made in _PASSES.items() if counts[name] and parts & {*made}}


def records_of(name: str, examples: Sequence[Example], parts: frozenset[Part]) -> list[tuple[Example, tuple[str, ...]]]:
    """What a pass leaves in the store: parts of the record of each example it asks about."""
    if name == "alternatives":
        return [(example, tuple(found)) for example in examples if (found := alternatives(example))]
    for asking in get_args(Asking):
        if name == asking:
            return [(example, (name,)) for example in asked_by(examples, asking)]
    if name in ("scores", "generated"):
        return [(example, (name,)) for example in examples if not example.metadata.get("evaluation_only")]
    own = {"layers": tuple(part for part, kind in (("lens", Part.LENS), ("hidden", Part.HIDDEN)) if kind in parts)}
    return [(example, own.get(name, (name,))) for example in examples]
