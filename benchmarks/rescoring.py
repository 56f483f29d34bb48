"""How long it takes to score kept evidence under all metrics, and what reading a question once is worth.

    python benchmarks/rescoring.py
    python benchmarks/rescoring.py --tofu DIRECTORY --questions 24

The first makes up evidence of 4,000 questions (400 to forget in people of 20, 400 held out, the rest to retain) under three
models, and times reading it from disk, measuring with intervals and judging. The second asks the embedded model for the
paraphrases and perturbed answers of TOFU's questions, with the question read once and read every time, in turns.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from expunge.audit.assemble import assemble
from expunge.audit.measure import Answered, Place
from expunge.evidence import EvidenceStore
from expunge.metrics import METRICS

SETS = {"forget": 400, "holdout": 400, "retain": 2900, "real_authors": 100, "world_facts": 100, "ordinary": 100}
MODELS = {"target": 0.9, "unlearned": 0.4, "retrained": 0.4}
TOKENS = 50
_LETTERS = random.Random(2)
VOCABULARY = ["".join(_LETTERS.choices("abcdefghijklmnop", k=6)) for _ in range(10_000)]


def write(path: Path, count: int, known: float, rng: np.random.Generator) -> None:
    """Evidence of so many questions under a model that knows them to that degree, all parts of it."""
    words = random.Random(0)
    store = EvidenceStore(path)
    for number in range(count):
        log_p = -rng.gamma(0.5, 2 - known, TOKENS)

        def say() -> str:
            return " ".join(words.choices(VOCABULARY, k=40))

        store.add_scores(f"{number}", log_p, rng.random(TOKENS) < known, rng.gamma(1, 1, TOKENS), rng.gamma(1, 2, TOKENS))
        store.add(
            f"{number}",
            generated=say(),
            paraphrased=[-rng.gamma(1, 1)],
            perturbed=[-rng.gamma(2, 1) for _ in range(5)],
            prefixed=say(),
            **({"samples-16-0": [say() for _ in range(16)]} if path.stem.endswith("forget") else {}),
            gradient=rng.gamma(2, 2),
            lens=[-rng.gamma(2, 1) for _ in range(31)],
        )


def read(path: Path, name: str, count: int) -> list[Answered]:
    """The evidence of a set as the audit reads it, with answers made up by rule."""
    store = EvidenceStore(path)
    expected = random.Random(1)
    found = []
    for number in range(count):
        record = vars(store[f"{number}"]) | {"right": None, "samples": store.samples(f"{number}", 16, 0)}
        words = " ".join(expected.choices(VOCABULARY, k=40))
        subject = f"{name}{number // (1 if name == 'ordinary' else 20)}"
        found.append(Answered(subject, "?", words, **{field: record[field] for field in Answered._fields[3:]}))
    return found


def rescoring() -> None:
    """Write evidence, read it, measure and judge."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        places = {Place(model, name): Path(directory) / f"{model}-{name}.jsonl" for model in MODELS for name in SETS}
        for place, path in places.items():
            write(path, SETS[place.set], MODELS[place.model], rng)
        start = time.perf_counter()
        evidence = {place: read(path, place.set, SETS[place.set]) for place, path in places.items()}
        middle = time.perf_counter()
        audit = assemble([], [], evidence)
        end = time.perf_counter()
    print(f"{sum(SETS.values()):,} questions, {len(MODELS)} models, {len([*METRICS])} metrics, {len(audit.scores)} scores")
    print(f"reading {middle - start:.1f} s, measuring and judging {end - middle:.1f} s, together {end - start:.1f} s")


def prefixes(tofu: Path, count: int) -> None:
    """Both ways in turns, on the embedded model."""
    import torch

    from expunge.batching import tokenize
    from expunge.evidence.prefixes import Question, batches_of_questions, continuation_log_p
    from expunge.examples import Example
    from expunge.models import load_model, load_tokenizer, prepare_cpu

    prepare_cpu(1)
    model, tokenizer = load_model("embedded"), load_tokenizer("embedded")
    for name in ("forget10_perturbed", "real_authors_perturbed"):
        questions = []
        for line in (tofu / f"{name}.json").read_text("utf-8").splitlines()[:count]:
            row = json.loads(line)
            texts = [row.get("paraphrased_answer", row["answer"]), *row["perturbed_answer"]]
            tokens = tokenize([Example(row["question"], text, "x") for text in texts], tokenizer, max_seq_length=512)
            head = tokens[0].start
            questions.append(Question(tokens[0].tokens[:head], tuple(each.tokens[head:] for each in tokens)))
        seconds: dict[bool, list[float]] = {True: [], False: []}
        found = {}
        for _ in range(3):
            for shared in (True, False):
                start = time.perf_counter()
                found[shared] = [
                    log_p
                    for places in batches_of_questions(questions)
                    for log_p in continuation_log_p(
                        model, [questions[place] for place in places], pad=tokenizer.pad_token_id, shared=shared
                    )
                ]
                seconds[shared].append(time.perf_counter() - start)
        apart = max(
            (one - other).abs().max().item()
            for first, second in zip(found[True], found[False], strict=True)
            for one, other in zip(first, second, strict=True)
        )
        once, every = (statistics.median(seconds[shared]) for shared in (True, False))
        print(f"{name}: read once {once:.2f} s, every time {every:.2f} s, {every / once:.2f} x; apart by {apart:.1e} nats")
        assert torch.isfinite(torch.tensor(apart))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tofu", type=Path, help="directory of TOFU's files")
    parser.add_argument("--questions", type=int, default=24)
    arguments = parser.parse_args()
    if arguments.tofu:
        prefixes(arguments.tofu, arguments.questions)
    else:
        rescoring()
