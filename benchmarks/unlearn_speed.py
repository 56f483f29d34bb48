"""Seconds of an unlearning step beside OpenUnlearning's: `python benchmarks/unlearn_speed.py --open-unlearning PATH`.

PATH is a checkout of github.com/locuslab/open-unlearning, whose own loss code is run (its DeepSpeed and its trainer base are
left out, as nothing here needs them). Both unlearn the same model from the same weights with the same trained parameters (a
LoRA adapter; all weights with --full; for rmu the same three layers), on the same batches, threads and data type, with AdamW,
taking turns step by step. The data are made-up notes or, with --data FILE, rows of `prompt` and `response` (TOFU's `question`
and `answer` do too). What is counted as expunge's is what `expunge unlearn --fast` does in a step; what it asks the frozen
target once before the first step is printed apart.

Beside each ratio of times stands the ratio of the operations that either side's matrix products need.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import resource
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from expunge.batching import TokenBatch, Tokenized, collate, tokenize
from expunge.examples import Example
from expunge.methods import METHODS
from expunge.models import fresh_adapter, load_model, load_tokenizer, model_shape, prepare_cpu
from expunge.sources.medical import example_of, generate_notes
from expunge.training.alternatives import refused
from expunge.training.cost import matmul_rate
from expunge.training.hidden import layers_of
from expunge.training.objective import Need
from expunge.training.plan import MicroBatch, plan_pairs
from expunge.training.supplies import Supplies, supply

WARM_UP = 1
LAYER = 7
THEIRS = {
    "grad-diff": "grad_diff.GradDiff",
    "npo": "npo.NPO",
    "idk-dpo": "dpo.DPO",
    "undial": "undial.UNDIAL",
    "rmu": "rmu.RMU",
}


class Batches(NamedTuple):
    """The sets as tokens."""

    forget: list[Tokenized]
    retain: list[Tokenized]
    refusals: list[Tokenized]


def main() -> None:
    """Measure every method, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open-unlearning", type=Path, help="a checkout of it; without it only expunge is timed")
    parser.add_argument("--methods", nargs="+", default=list(THEIRS), choices=list(THEIRS))
    parser.add_argument("--steps", type=int, default=5, help=f"of each, of which the first {WARM_UP} are not looked at")
    parser.add_argument("--batch-size", type=int, default=8, help="of each side")
    parser.add_argument("--micro-batch-size", type=int, default=4, help="expunge's; OpenUnlearning takes the batch whole")
    parser.add_argument("--data", type=Path, help="JSON lines or array of question and answer")
    parser.add_argument("--full", action="store_true", help="train all weights")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    prepare_cpu(options.threads)
    tokenizer, shape = load_tokenizer(options.model), model_shape(options.model)
    sets = batches(options, tokenizer)
    peak = matmul_rate(shape.hidden, dtype=options.dtype)
    print(f"peak of matrix products: {peak / 1e9:.1f} G operations/s in {options.dtype}, {torch.get_num_threads()} threads")
    for name in options.methods:
        measure(name, options, tokenizer, sets, shape, peak)
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def batches(options: argparse.Namespace, tokenizer: Any) -> Batches:
    """As many examples as the steps take."""
    count = options.batch_size * options.steps
    if options.data is not None:
        text = options.data.read_text("utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
        examples = [
            Example(row.get("prompt", row.get("question")), row.get("response", row.get("answer")), f"{number}")
            for number, row in enumerate(rows)
        ]
    else:
        examples = [example_of(note) for note in generate_notes(2 * count, 0)]
    forget, retain = examples[:count], examples[-count:]
    read = [tokenize(each, tokenizer, max_seq_length=512) for each in (forget, retain, refused(forget, None, seed=0))]
    return Batches(*read)


def measure(name: str, options: argparse.Namespace, tokenizer: Any, sets: Batches, shape: Any, peak: float) -> None:
    """One method, step by step in turns."""
    pad = tokenizer.pad_token_id
    method = METHODS[name]
    config = method.config(**({"layer": LAYER} if name == "rmu" else {}))
    plan = plan_pairs(
        len(sets.forget),
        len(sets.retain),
        steps=options.steps,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        seed=0,
        lengths=[[len(each.tokens) for each in side] for side in (sets.forget, sets.retain)],
    )
    each = len(plan) // options.steps
    steps = [plan[start : start + each] for start in range(0, len(plan), each)]
    model = made(name, options)
    others = {"forget other": sets.refusals} if Need.REFUSALS in method.needs else {}
    start = time.perf_counter()
    supplies = supply(
        method.needs,
        model,
        {"forget": sets.forget, "retain": sets.retain, "kept": []},
        plan,
        others=others,
        weights=None,
        layer=LAYER if name == "rmu" else None,
        shares_prefixes=True,
        pad=pad,
    )
    once = time.perf_counter() - start
    ours = ours_step(model, supplies, lambda forget, retain: method.loss(config, forget, retain), sets, pad)
    seconds: dict[str, list[float]] = {"expunge": [], "OpenUnlearning": []}
    theirs: Callable[[list[MicroBatch]], float] | None = None
    if options.open_unlearning is not None:
        theirs = theirs_step(name, options, made(name, options), sets, pad)
    losses = []
    for number, step in enumerate(steps):
        row = {}
        for who, run in (("expunge", ours), ("OpenUnlearning", theirs)):
            if run is not None:
                begun = time.perf_counter()
                row[who] = run(step)
                if number >= WARM_UP:
                    seconds[who].append(time.perf_counter() - begun)
        losses.append(row)
    real = sum(len(side[place].tokens) for micro in plan[each * WARM_UP :] for side, place in places(micro, sets, others))
    line = f"{name:<10}"
    for who, found in seconds.items():
        if found:
            line += f" {who} {np.median(found):.2f} s a step, {real / sum(found):.0f} tokens/s;"
    trained = shape.sides * options.rank if not options.full else shape.parameters
    work = operations(name, steps[-1], sets, shape, full=options.full, trained=trained)
    line += f" {work.ours / np.median(seconds['expunge']) / peak:.0%} of peak;"
    if seconds["OpenUnlearning"]:
        ratio = np.median(np.array(seconds["OpenUnlearning"]) / np.array(seconds["expunge"]))
        line += f" ratio {ratio:.2f} (by count of operations {work.theirs / work.ours:.2f});"
    line += f" target asked once: {once:.1f} s;"
    print(line + f" first losses {', '.join(f'{who} {loss:.4g}' for who, loss in losses[0].items())}", flush=True)


def places(micro: MicroBatch, sets: Batches, others: dict[str, Any]) -> list[tuple[list[Tokenized], int]]:
    """Every sequence of a micro-batch."""
    found = [(sets.forget, place) for place in micro.forget] + [(sets.retain, place) for place in micro.retain]
    return found + ([(sets.refusals, place) for place in micro.forget] if others else [])


def made(name: str, options: argparse.Namespace) -> Any:
    """A model of its own, the same every time."""
    model: Any = load_model(options.model, dtype="float32" if options.full else options.dtype)
    if not options.full:
        model = fresh_adapter(model, options.model, rank=options.rank, alpha=2 * options.rank, seed=0)
    if name == "rmu":
        trained = {id(weight) for layer in layers_of(model)[LAYER - 2 : LAYER + 1] for weight in layer.parameters()}
        for weight in model.parameters():
            if id(weight) not in trained:
                weight.requires_grad_(False)
    return model.train()


def optimiser(model: Any) -> torch.optim.Optimizer:
    """The same for both."""
    return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)


def ours_step(model: Any, supplies: Supplies, objective: Any, sets: Batches, pad: int) -> Callable[[list[MicroBatch]], float]:
    """A step as the trainer takes it: micro-batches in shares of the whole step."""
    adam = optimiser(model)

    def labels(examples: list[Tokenized], found: list[int]) -> int:
        return sum(examples[place].labels for place in found)

    def run(step: list[MicroBatch]) -> float:
        total = 0.0
        forget, retain = ([place for micro in step for place in micro[side]] for side in (0, 1))
        counts = {
            "forget": (len(forget), labels(sets.forget, forget)),
            "retain": (len(retain), labels(sets.retain, retain)),
            "forget other": (len(forget), labels(sets.refusals, forget)),
        }
        for micro in step:
            sides = {}
            for side, examples, found in (
                ("forget", sets.forget, micro.forget),
                ("retain", sets.retain, micro.retain),
                ("forget other", sets.refusals, micro.forget if "forget other" in supplies.others else ()),
            ):
                if found:
                    batch = collate([examples[place] for place in found], pad)
                    of_examples, of_tokens = counts[side]
                    sides[side], _ = supplies.scores(
                        model, side, batch, list(found), of_examples=of_examples, of_tokens=of_tokens
                    )
            scores = sides["forget"]
            if "forget other" in sides:
                scores = replace(scores, other=sides["forget other"])
            losses = objective(scores, sides["retain"])
            (losses.forget + losses.retain).backward()
            total += float(losses.forget.detach() + losses.retain.detach())
        adam.step()
        adam.zero_grad()
        return total

    return run


def theirs_step(
    name: str, options: argparse.Namespace, model: Any, sets: Batches, pad: int
) -> Callable[[list[MicroBatch]], float]:
    """A step of OpenUnlearning's own loss on the same examples, padded as its collator pads them."""
    _importable(options.open_unlearning / "src")
    module, _, kind = THEIRS[name].partition(".")
    found = getattr(importlib.import_module(f"trainer.unlearn.{module}"), kind)
    trainer = object.__new__(found)
    trainer.__dict__.update(alpha=1.0, gamma=1.0, beta=0.1, retain_loss_type="NLL", model=model, ref_model=None)
    if name in ("npo", "idk-dpo", "undial", "rmu"):
        trainer.ref_model = copy.deepcopy(model).eval()
    if name == "rmu":
        trainer.__dict__.update(steering_coeff=2, control_vec=None, retain_loss_type="EMBED_DIFF")
        trainer.model_module, trainer.ref_module = (layers_of(each)[LAYER] for each in (model, trainer.ref_model))
    adam = optimiser(model)

    def whole(examples: list[Tokenized], found: list[int]) -> dict[str, torch.Tensor]:
        batch: TokenBatch = collate([examples[place] for place in found], pad)
        return {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT, "labels": batch.labels_BT}

    def run(step: list[MicroBatch]) -> float:
        forget, retain = ([place for micro in step for place in micro[side]] for side in (0, 1))
        inputs: dict[str, Any] = {"forget": whole(sets.forget, forget), "retain": whole(sets.retain, retain)}
        if name == "idk-dpo":
            inputs["forget"] = {"original": inputs["forget"], "alternate": whole(sets.refusals, forget)}
        loss = trainer.compute_loss(model, inputs)
        loss.backward()
        adam.step()
        adam.zero_grad()
        return float(loss.detach())

    return run


def _importable(source: Path) -> None:
    """Its loss code without what only its launcher needs."""
    if "trainer" in sys.modules:
        return
    if not (source / "trainer" / "unlearn" / "grad_diff.py").is_file():
        raise SystemExit(f"{source} holds no checkout of open-unlearning")
    for name in ("trainer", "trainer.unlearn"):
        package = types.ModuleType(name)
        package.__path__ = [str(source / name.replace(".", "/"))]
        sys.modules[name] = package
    base, deepspeed = types.ModuleType("trainer.unlearn.base"), types.ModuleType("deepspeed")
    base.UnlearnTrainer = object  # type: ignore[attr-defined]
    deepspeed.DeepSpeedEngine = type("DeepSpeedEngine", (), {})  # type: ignore[attr-defined]
    sys.modules["trainer.unlearn.base"] = base
    sys.modules.setdefault("deepspeed", deepspeed)


class Work(NamedTuple):
    """Operations of a step, in matrix products alone."""

    ours: float
    theirs: float


def operations(name: str, step: list[MicroBatch], sets: Batches, shape: Any, *, full: bool, trained: int) -> Work:
    """What a step multiplies; softmaxes, norms, attention and copies are left out."""
    body, head = shape.linear, shape.vocabulary * shape.hidden
    back = 2 if full else 1
    share, above = (LAYER + 1) / shape.layers, 3 / shape.layers
    forget, retain = ([place for micro in step for place in micro[side]] for side in (0, 1))
    sides = {"forget": (sets.forget, forget), "retain": (sets.retain, retain)}
    if name == "idk-dpo":
        sides["other"] = (sets.refusals, forget)
    theirs = ours = 0.0
    for side, (examples, found) in sides.items():
        longest = max(len(examples[place].tokens) for place in found)
        padded = longest * len(found)
        referred = {"npo": ("forget",), "undial": ("forget",), "idk-dpo": ("forget", "other"), "rmu": ("retain",)}
        passes = 1 + back + (side in referred.get(name, ()))
        if name == "rmu":
            # Backward through three layers; forward through all, the head included.
            theirs += padded * ((1 + (side == "retain")) * (body + head) + back * above * body)
        else:
            theirs += padded * passes * (body + head)
        for micro in step:
            members = [examples[place] for place in (micro.forget if side != "retain" else micro.retain)]
            most = max(len(each.tokens) for each in members)
            shared = _shared(members)
            tokens = shared + len(members) * (most - shared)
            labelled = len(members) * (most - min(each.start for each in members) + 1)
            if name == "rmu":
                ours += len(members) * most * (share + back * above) * body
            else:
                ours += (1 + back) * (tokens * body + labelled * head)
            if name == "undial" and side == "forget":
                ours += sum(each.labels for each in members) * head
    extra = 0 if full else 3 * trained * sum(len(sets.forget[place].tokens) for place in forget)
    return Work(2 * (ours + extra), 2 * (theirs + extra))


def _shared(members: list[Tokenized]) -> int:
    first = min(each.start for each in members) - 1
    columns = zip(*(each.tokens[:first] for each in members), strict=False)
    count = 0
    for column in columns:
        if len(set(column)) > 1:
            break
        count += 1
    return count if count >= 8 and len(members) > 1 else 0


if __name__ == "__main__":
    main()
