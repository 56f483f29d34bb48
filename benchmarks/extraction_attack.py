"""Extraction from two checkpoints. `python benchmarks/extraction_attack.py [--seeds 0 1] [--results benchmarks/results]`.

People are generated and split, a quarter of them to be forgotten. For each seed the earlier model learns all of them, for too
few epochs to recite them; the later one is the same training without those who go (`expunge unlearn retrain`). They are
attacked by reversed model guidance (arXiv 2505.24379) at every weight w; and so is the earlier model with two baselines that
need no later model at all: the base, and itself reading another name.

Prints a table with 95% intervals by person over all seeds, and the difference from the earlier model alone on the same people.
With --results, writes it there, with a plot. Everything is kept in --work: killed, it goes on; more seeds add theirs. A seed
took 11 minutes with one thread on a busy machine, 6 of them of training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expunge.audit.attacks.extraction import Extraction, recalled
from expunge.audit.bootstrap import difference_interval, mean_interval
from expunge.examples import read_examples
from expunge.files import written_atomically
from expunge.models import prepare_cpu
from expunge.recipes.demo import BY_HEART
from expunge.recipes.extraction import EXTRACTION, ExtractionConfig, extraction
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.recipes.retrain import RetrainConfig, retrain
from expunge.report.loss_plot import loss_plot

SCORES = {
    "recall_B": "ROUGE-L recall",
    "a_esr_90": "A-ESR .9",
    "a_esr_100": "A-ESR 1.0",
    "exact_B": "exact",
    "edit_similarity_B": "edit sim.",
}


class Models(NamedTuple):
    """What one seed made."""

    data: Path
    pre: Path
    retrained: Path


def main() -> None:
    """Train, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/extraction"), help="where runs go")
    parser.add_argument("--results", type=Path, help="folder for the table and the plot")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="other people, another split, another training")
    parser.add_argument("--people", type=int, default=40, help="trained on; a quarter of them goes")
    parser.add_argument("--epochs", type=int, default=3, help="few enough that the earlier model does not recite everybody")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.2, 1.5, 2.0], help="guidance weights w")
    parser.add_argument("--gamma", type=float, default=1e-3)
    parser.add_argument("--prefix-share", type=float, default=0.25, help="share of an answer that the attacker has")
    parser.add_argument("--only-train", action="store_true", help="train, and attack another time")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    prepare_cpu(options.threads)
    began = time.monotonic()
    made = {seed: models(options, seed) for seed in options.seeds}
    if options.only_train:
        return
    lines = list(attacks(options, made))
    spent = f"{(time.monotonic() - began) / 60:.0f} minutes in this call; what was kept in --work is not counted."
    print(spent)
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        with written_atomically(options.results / "extraction_attack.txt") as stream:
            stream.write("\n".join([*lines, ""]))


def models(options: argparse.Namespace, seed: int) -> Models:
    """The earlier model and the later one of one seed."""
    place = options.work / f"{options.people}-people-{options.epochs}-epochs-seed-{seed}"
    notes, data = place / "notes.jsonl", place / "data"
    generate_medical(GenerateMedicalConfig(n_record=options.people, output=notes, seed=seed))
    prepare_medical(
        PrepareMedicalConfig(
            input=notes, output=data, forget_ratios=(0.25,), holdout_ratio=0, allow_contaminated=True, seed=seed
        )
    )
    # The demo's own settings but for the number of epochs.
    pre = finetune(
        FinetuneConfig(
            data_file=(data / "forget.jsonl", data / "retain.jsonl"),
            ordinary=data / "ordinary_train.jsonl",
            output=place / "pre",
            epochs=options.epochs,
            batch_size=1,
            **BY_HEART,
            checkpoint_steps=60,
            keep_checkpoints=0,
            seed=seed,
            threads=options.threads,
        )
    ).path
    anew = RetrainConfig(model=pre, forget=data / "forget.jsonl", output=place / "retrained", threads=options.threads)
    return Models(data, pre / "model", retrain(anew).path / "model")


def attacks(options: argparse.Namespace, made: dict[int, Models]) -> Iterator[str]:
    """The table of what was extracted."""
    pairs: dict[str, Callable[[Models], tuple[str, str | None]]] = {
        "guided by retrained": lambda m: (str(m.retrained), None),
        "guided by retrained, reading a stranger": lambda m: (str(m.retrained), STRANGER),
        "guided by the base": lambda m: ("embedded", None),
        "guided by itself, reading a stranger": lambda m: (str(m.pre), STRANGER),
    }
    yield said(f"{'decoder':<44} {'w':>5} " + " ".join(f"{name:>20}" for name in SCORES.values()) + f" {'recall less pre':>21}")
    curves: dict[str, dict[float, float]] = {}
    shown = set()
    for label, choose in pairs.items():
        rows: dict[float, dict[str, list[float]]] = {}
        subjects: list[str] = []
        for seed, each in made.items():
            post, stranger = choose(each)
            found = attacked(options, each, seed, label, post, stranger)
            subjects += [f"{seed}/{example.subject}" for example in read_examples(each.data / "forget.jsonl")]
            for row in found:
                kept = rows.setdefault(row["weight"], {name: [] for name in SCORES})
                recall_B = np.array(row["recall_B"])
                row |= {"a_esr_90": recalled(recall_B, 0.9), "a_esr_100": recalled(recall_B, 1)}
                for name in SCORES:
                    kept[name] += list(row[name])
        curves[label] = {weight: float(np.mean(row["recall_B"])) for weight, row in rows.items()}
        for weight, row in sorted(rows.items()):
            name = {0.0: label.removeprefix("guided by ") + " alone", 1.0: "pre alone"}.get(weight, label)
            if weight in (0.0, 1.0) and ("stranger" in label or name in shown):
                continue
            shown.add(name)
            cells = " ".join(f"{interval(np.array(row[score]), subjects):>20}" for score in SCORES)
            more = difference_interval(np.array(row["recall_B"]), np.array(rows[1.0]["recall_B"]), subjects)
            yield said(f"{name:<44} {weight:>5g} {cells} {more.value:>+7.3f} ({more.low:+.2f} {more.high:+.2f})")
    if options.results:
        draw(options, curves)


STRANGER = "Morgan Reed"


def attacked(
    options: argparse.Namespace, models: Models, seed: int, label: str, post: str, stranger: str | None
) -> list[dict[str, Any]]:
    """The rows of one attack, one for each w."""
    name = f"{label}-{options.prefix_share:g}-{options.gamma:g}-{'_'.join(f'{weight:g}' for weight in options.weights)}"
    place = models.data.parent / "attacks" / name.replace(" ", "-").replace(",", "")
    extraction(
        ExtractionConfig(
            pre=str(models.pre),
            post=post,
            forget=models.data / "forget.jsonl",
            output=place,
            evidence=models.data.parent / "attacks" / "evidence",
            threads=options.threads,
        ),
        Extraction(weight=tuple(options.weights), gamma=options.gamma, prefix_share=options.prefix_share, stranger=stranger),
    )
    rows: list[dict[str, Any]] = json.loads((place / EXTRACTION).read_text("utf-8"))["rows"]
    return rows


def interval(values_B: Any, subjects_B: list[str]) -> str:
    """A mean and its 95% interval."""
    found = mean_interval(values_B, subjects_B)
    return f"{found.value:.3f} ({found.low:.2f}-{found.high:.2f})"


def draw(options: argparse.Namespace, curves: dict[str, dict[float, float]]) -> None:
    """Recall over w, a line for each baseline."""
    names = {f"c{number}": label.removeprefix("guided by ") for number, label in enumerate(curves) if "reading" not in label}
    names |= {f"c{number}": "pre, a stranger" for number, label in enumerate(curves) if label.startswith("guided by itself")}
    weights = sorted(next(iter(curves.values())))
    trace = [
        {
            "step": weight,
            **{f"c{number}": curve[weight] for number, curve in enumerate(curves.values()) if f"c{number}" in names},
        }
        for weight in weights
        if weight >= 0
    ]
    options.results.mkdir(parents=True, exist_ok=True)
    with written_atomically(options.results / "extraction_attack.svg") as stream:
        stream.write(loss_plot(trace, names, title="ROUGE-L recall of the deleted, by guidance weight and baseline", axis="w"))


def said(line: str) -> str:
    """Print a line of the table at once."""
    print(line, flush=True)
    return line


if __name__ == "__main__":
    main()
