"""Extraction from two checkpoints. `python benchmarks/extraction_attack.py [--seeds 0 1] [--results benchmarks/results]`.

People are generated and split, a quarter of them to be forgotten. For each seed the earlier model learns all of them, for too
few epochs to recite everybody; the later one is the same training without those who go (`expunge unlearn retrain`). The held
one is that, held to the base about people who do not exist (its `--strangers`), in more epochs. The earlier model is attacked
with either by reversed model guidance (arXiv 2505.24379) at every weight w; and with two that need no later model at all: the
base, and itself reading another name. The last table says what each model recites when it is asked the question alone, and its
loss on ordinary text.

Prints tables with 95% intervals by person over all seeds, and the difference from the earlier model alone on the same people.
With --results, writes it there, with a plot. Everything is kept in --work: killed, it goes on; more seeds add theirs. A seed
took half an hour with one thread on a busy machine, most of it training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expunge.audit.attacks.extraction import Extraction, recalled
from expunge.audit.bootstrap import difference_interval, mean_interval, ratio_interval
from expunge.batching import tokenize
from expunge.evidence import EvidenceStore, Unanswered, losses, record_answers
from expunge.examples import read_examples, write_examples
from expunge.files import write_json, written_atomically
from expunge.metrics.rouge_l import rouge_l_recall
from expunge.models import load_plain, load_tokenizer, model_fingerprint, prepare_cpu
from expunge.progress import progress
from expunge.recipes.demo import BY_HEART
from expunge.recipes.extraction import EXTRACTION, ExtractionConfig, extraction
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.recipes.retrain import RetrainConfig, retrain
from expunge.report.loss_plot import loss_plot
from expunge.sources.medical import example_of, generate_notes

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
    held: Path


def main() -> None:
    """Train, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/extraction"), help="where runs go")
    parser.add_argument("--results", type=Path, help="folder for the table and the plot")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="other people, another split, another training")
    parser.add_argument("--people", type=int, default=40, help="trained on; a quarter of them goes")
    parser.add_argument("--epochs", type=int, default=3, help="few enough that the earlier model does not recite everybody")
    parser.add_argument("--held-epochs", type=int, default=8, help="of the model that is held to the base about strangers")
    parser.add_argument("--strangers", type=int, default=300, help="people who do not exist, about whom it is held")
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
    lines = [*attacks(options, made), "", *utility(made)]
    spent = f"{(time.monotonic() - began) / 60:.0f} minutes in this call; what was kept in --work is not counted."
    print(spent)
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        with written_atomically(options.results / "extraction_attack.txt") as stream:
            stream.write("\n".join([*lines, ""]))


def models(options: argparse.Namespace, seed: int) -> Models:
    """The earlier model and the later ones of one seed."""
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
    taken = {example.subject for name in ("forget", "retain") for example in read_examples(data / f"{name}.jsonl")}
    made_up = [example_of(note) for note in generate_notes(options.strangers, seed=seed + 1000)]
    write_examples(place / "strangers.jsonl", [example for example in made_up if example.subject not in taken])
    held = replace(anew, strangers=place / "strangers.jsonl", epochs=options.held_epochs, output=place / "held")
    return Models(data, pre / "model", *(retrain(each).path / "model" for each in (anew, held)))


def attacks(options: argparse.Namespace, made: dict[int, Models]) -> Iterator[str]:
    """The table of what was extracted."""
    pairs: dict[str, Callable[[Models], tuple[str, str | None]]] = {
        "guided by retrained": lambda m: (str(m.retrained), None),
        "guided by retrained, reading a stranger": lambda m: (str(m.retrained), STRANGER),
        "guided by held": lambda m: (str(m.held), None),
        "guided by held, reading a stranger": lambda m: (str(m.held), STRANGER),
        "guided by the base": lambda m: ("embedded", None),
        "guided by itself, reading a stranger": lambda m: (str(m.pre), STRANGER),
    }
    yield said(f"{'decoder':<44} {'w':>5} " + " ".join(f"{name:>20}" for name in SCORES.values()) + f" {'recall less pre':>21}")
    recalls: dict[str, dict[float, Any]] = {}
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
        recalls[label] = {weight: np.array(row["recall_B"]) for weight, row in rows.items()}
        for weight, row in sorted(rows.items()):
            name = {0.0: label.removeprefix("guided by ") + " alone", 1.0: "pre alone"}.get(weight, label)
            if weight in (0.0, 1.0) and ("stranger" in label or name in shown):
                continue
            shown.add(name)
            cells = " ".join(f"{interval(np.array(row[score]), subjects):>20}" for score in SCORES)
            more = difference_interval(np.array(row["recall_B"]), np.array(rows[1.0]["recall_B"]), subjects)
            yield said(f"{name:<44} {weight:>5g} {cells} {more.value:>+7.3f} ({more.low:+.2f} {more.high:+.2f})")
    yield said("")
    for weight in options.weights:
        saved = difference_interval(recalls["guided by held"][weight], recalls["guided by retrained"][weight], subjects)
        yield said(
            f"guided by held less guided by retrained, w = {weight:g}: {saved.value:+.3f} ({saved.low:+.2f} {saved.high:+.2f})"
        )
    if options.results:
        curves = {label: {weight: float(recall_B.mean()) for weight, recall_B in row.items()} for label, row in recalls.items()}
        draw(options, curves)


STRANGER = "Morgan Reed"
MOST_TOKENS = 128


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


def utility(made: dict[int, Models]) -> Iterator[str]:
    """The table of what the models still know and say."""
    parts = ("forget", "retain")
    heads = " ".join(f"{head:>20}" for head in ("forget", "retain", "/ retrained", "retain, nats"))
    yield said(f"{'asked the question alone':<28} {heads} {'ordinary, nats':>15}")
    subjects = {
        part: [f"{seed}/{each.subject}" for seed, m in made.items() for each in read_examples(m.data / f"{part}.jsonl")]
        for part in parts
    }
    reference = None
    for name in ("retrained", "held", "pre"):
        found = [known(each.data, getattr(each, name), f"{name} of seed {seed}") for seed, each in made.items()]
        recall = {part: np.array([value for one in found for value in one[part]]) for part in parts}
        reference = recall["retain"] if reference is None else reference
        nats = interval(np.array([value for one in found for value in one["retain_nats"]]), subjects["retain"])
        share = ratio_interval(recall["retain"], reference, subjects["retain"])
        cells = " ".join(f"{interval(recall[part], subjects[part]):>20}" for part in parts)
        ratio = f"{share.value:.3f} ({share.low:.2f}-{share.high:.2f})"
        yield said(f"{name:<28} {cells} {ratio:>20} {nats:>20} {np.mean([one['ordinary'] for one in found]):>15.3f}")


def known(data: Path, path: Path, who: str) -> dict[str, Any]:
    """ROUGE-L recall of each answer to the plain question, and losses of the answers and of ordinary text, nats a token."""
    place = data.parent / "utility" / f"{model_fingerprint(path)[:16]}.json"
    if place.exists():
        kept: dict[str, Any] = json.loads(place.read_text("utf-8"))
        return kept
    tokenizer = load_tokenizer(path)
    model = load_plain(path)
    sets = {
        part: Unanswered(
            read_examples(data / f"{part}.jsonl"), EvidenceStore(place.with_name(f"{place.stem}-{part}.jsonl")), MOST_TOKENS
        )
        for part in ("forget", "retain")
    }
    with progress(f"Asking {who}", sum(len(each.examples) for each in sets.values())) as bar:
        record_answers(model, tokenizer, list(sets.values()), bar=bar)
    found: dict[str, Any] = {
        part: rouge_l_recall(
            [str(each.store[example.id].generated) for example in each.examples],
            [example.response for example in each.examples],
        ).tolist()
        for part, each in sets.items()
    }
    for name, texts in {
        "retain_nats": sets["retain"].examples,
        "ordinary": read_examples(data / "ordinary_eval.jsonl"),
    }.items():
        found[name] = losses(model, tokenize(texts, tokenizer, max_seq_length=512), pad=tokenizer.pad_token_id).tolist()
    write_json(place, found)
    return found


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
