"""Does recorded impact help unlearning? `python benchmarks/impact_unlearning.py [--run runs/demo] [--seeds 0 1] [--redact]`.

Takes a finished `expunge demo`, which is only read, and unlearns its target again with the demo's own settings: by plain npo,
by impact-npo, and by impact-npo with the same weights shuffled within each answer; with `--ascent` by grad-diff and impact-ga
too. With `--redact`, fine-tunes the base again on data without the most impactful words (as many epochs as the demo's target,
unless `--epochs` says otherwise). Prints one row a model: steps until the forget set is as little known as the holdout, what is
recited of forget and retain notes (ROUGE-L recall), the loss of ordinary text, and the seconds of training. Runs are kept in
`--work` and are not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expunge.batching import tokenize
from expunge.evidence import EvidenceStore, Unanswered, mean_loss, record_answers
from expunge.examples import Example, read_examples
from expunge.methods.grad_diff import GradDiff
from expunge.methods.impact_ga import ImpactGa
from expunge.methods.impact_npo import ImpactNpo
from expunge.methods.npo import Npo
from expunge.metrics.rouge_l import rouge_l_recall
from expunge.models import load_model, load_tokenizer, model_fingerprint, prepare_cpu
from expunge.progress import progress
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.redact import PrepareRedactConfig, redact
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.runs import Run

SETS = ("forget", "retain", "holdout", "ordinary_eval")
MAX_SEQ_LENGTH, MAX_NEW_TOKENS = 512, 120


class Arm(NamedTuple):
    """One way to forget."""

    name: str
    method: str
    config: Any


def main() -> None:
    """Run every arm, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--work", type=Path, default=Path("runs/impact-unlearning"), help="where the new runs go")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="orders of examples, and shuffles of weights")
    parser.add_argument("--floors", type=float, nargs="+", default=[0.5], help="values of --weight-floor")
    parser.add_argument("--eval-steps", type=int, default=2, help="steps between two comparisons with the holdout")
    parser.add_argument("--retain", type=int, help="ask only so many of the retain people")
    parser.add_argument("--ascent", action="store_true", help="grad-diff and impact-ga too")
    parser.add_argument("--redact", action="store_true", help="also train on redacted data")
    parser.add_argument("--epochs", type=int, help="epochs on redacted data")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if not (options.run / "unlearned" / "manifest.json").is_file():
        print(f"{options.run} holds no demo run: run `expunge demo` first, or name another --run. Nothing was measured.")
        return
    prepare_cpu(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    sets = {name: read_examples(options.run / "data" / f"{name}.jsonl") for name in SETS}
    sets["retain"] = sets["retain"][: options.retain]
    print(f"{'model':<34} {'steps':>6} {'forget':>8} {'retain':>8} {'forget':>8} {'holdout':>8} {'ordinary':>9} {'seconds':>8}")
    print(f"{'':<34} {'':>6} {'ROUGE-L recall':>17} {'loss, nats a token':>27} {'train':>8}")
    for name in ("target", "retrained"):
        row(name, options.run / name, sets, options.work)
    for seed in options.seeds:
        for arm in arms(options):
            row(f"{arm.name}, seed {seed}", forgotten(options, arm, seed), sets, options.work)
    if options.redact:
        row("trained on redacted data", retrained_on_redacted(options), sets, options.work)


def arms(options: argparse.Namespace) -> Iterator[Arm]:
    """Plain, weighted by impact, and weighted at random; with the strength that the demo unlearns with."""
    strength = Run.read(options.run / "unlearned").manifest["settings"]["method"]
    strength = {name: strength[name] for name in ("beta", "retain_weight")}
    yield Arm("npo", "npo", Npo(**strength))
    for floor in options.floors:
        for weights in ("recorded", "random"):
            config = ImpactNpo(**strength, weights=weights, weight_floor=floor)
            yield Arm(f"impact-npo {weights}, floor {floor:g}", "impact-npo", config)
    if options.ascent:
        yield Arm("grad-diff", "grad-diff", GradDiff())
        for weights in ("recorded", "random"):
            yield Arm(f"impact-ga {weights}", "impact-ga", ImpactGa(weights=weights))


def forgotten(options: argparse.Namespace, arm: Arm, seed: int) -> Path:
    """The run directory of the target after unlearning."""
    settings = Run.read(options.run / "unlearned").manifest["settings"]
    kept = ("steps", "batch_size", "learning_rate", "lora_rank", "lora_alpha", "max_seq_length")
    place = options.work / f"{arm.name.replace(',', '').replace(' ', '-')}-{seed}"
    run = unlearn(
        UnlearnConfig(
            model=str(options.run / "target" / "model"),
            **{name: options.run / "data" / f"{name}.jsonl" for name in ("forget", "retain", "holdout")},
            output=place,
            **{name: settings[name] for name in kept},
            eval_steps=options.eval_steps,
            database=ledger(options, place.name),
            seed=seed,
            threads=options.threads,
        ),
        arm.method,
        arm.config,
    )
    return run.path


def retrained_on_redacted(options: argparse.Namespace) -> Path:
    """The run directory of the base fine-tuned as the target was, on data without the most impactful words."""
    files = tuple(options.run / "data" / f"{name}.jsonl" for name in ("forget", "retain"))
    redacted = redact(
        PrepareRedactConfig(
            data_file=files,
            output=options.work / "redacted",
            model="embedded",
            database=ledger(options, "redacted"),
            subjects_from=files[0],
            how="replace",
        )
    )
    print(f"redacted: {json.dumps(redacted.results)}")
    settings = Run.read(options.run / "target").manifest["settings"]
    kept = ("model", "ordinary_share", "batch_size", "learning_rate", "lora_rank", "lora_alpha", "max_seq_length", "seed")
    run = finetune(
        FinetuneConfig(
            data_file=tuple(redacted.path / file.name for file in files),
            ordinary=options.run / "data" / "ordinary_train.jsonl",
            output=options.work / "redacted-target",
            **{name: settings[name] for name in kept},
            epochs=options.epochs or settings["epochs"],
            checkpoint_steps=30,
            threads=options.threads,
        )
    )
    return run.path


def ledger(options: argparse.Namespace, name: str) -> str:
    """A copy of the demo's ledger for one run: what another one records must not change its choice."""
    copy = options.work / f"{name}.db"
    if not copy.exists():
        for suffix in ("", "-wal"):
            source = options.run / f"ledger.db{suffix}"
            if source.exists():
                shutil.copy(source, f"{copy}{suffix}")
    return str(copy)


def row(name: str, run: Path, sets: dict[str, list[Example]], work: Path) -> None:
    """Ask the model of a run, print what it said."""
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    path = run / "model"
    tokenizer = load_tokenizer(path)
    place = work / "evidence" / model_fingerprint(path)[:16]
    model: Any = load_model(path).merge_and_unload()
    recall, loss = {}, {}
    for part in ("forget", "retain"):
        store = EvidenceStore(place / f"{part}.jsonl")
        with progress(f"Asking {name}", len(sets[part])) as bar:
            record_answers(model, tokenizer, [Unanswered(sets[part], store, MAX_NEW_TOKENS)], bar=bar)
        said = [str(store[example.id].generated) for example in sets[part]]
        recall[part] = float(np.mean(rouge_l_recall(said, [example.response for example in sets[part]])))
    for part in ("forget", "holdout", "ordinary_eval"):
        tokens = tokenize(sets[part], tokenizer, max_seq_length=MAX_SEQ_LENGTH)
        loss[part] = mean_loss(model, tokens, pad=tokenizer.pad_token_id)
    results = manifest["results"]
    reached = "stopped" not in results or results["stopped"].startswith("step")
    print(
        f"{name:<34} {results['steps'] if reached else 'never':>6} {recall['forget']:>8.3f} {recall['retain']:>8.3f} "
        f"{loss['forget']:>8.2f} {loss['holdout']:>8.2f} {loss['ordinary_eval']:>9.2f} {manifest['seconds']['train']:>8.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
