"""Seconds of an unlearning step beside OpenUnlearning's: `python benchmarks/unlearn_speed.py --open-unlearning PATH`.

PATH is a checkout of github.com/locuslab/open-unlearning, whose own loss code is run (its DeepSpeed and its trainer base are
left out, as nothing here needs them). Both unlearn the same model from the same weights with the same trained parameters (a
LoRA adapter; all weights with --full; for rmu the same three layers), on the same batches, threads and data type, with AdamW,
taking turns step by step. The data are made-up notes or, with --data FILE, rows of `prompt` and `response` (TOFU's `question`
and `answer` do too). What is counted as expunge's is what `expunge unlearn` does in a step; what it asks the frozen target once
before the first step is printed apart.

Beside each ratio of times stands the ratio of the operations that either side's matrix products need, and what each saving
contributes to it: no second pass of a frozen reference, no layers above rmu's, no head where nothing is labelled, no padding,
no beginning run twice. Peak memory is that of the whole process, all methods and both sides together; on a GPU that
of each side while it trains, with the model, its optimiser and the frozen copy that belong to it.

With a GPU both sides run there, in the data type that is given (float32 without TF32, PyTorch's own setting). A step is timed
until the GPU is done with it.
"""

from __future__ import annotations

import argparse
import copy
import importlib
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
from expunge.evidence.passes import to_device
from expunge.examples import Example, read_rows
from expunge.methods import METHODS
from expunge.models import fresh_adapter, load_model, load_tokenizer, model_shape, prepare_cpu
from expunge.sources.medical import example_of, generate_notes
from expunge.training.alternatives import refused
from expunge.training.cost import matmul_rate
from expunge.training.hidden import layers_of
from expunge.training.objective import Need
from expunge.training.plan import MicroBatch, plan_pairs
from expunge.training.prefix import forest, tokens_of_a_tree
from expunge.training.supplies import Supplies, supply

WARM_UP = 3 if torch.cuda.is_available() else 1
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
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
    parser.add_argument("--micro-batch-size", type=int, default=8, help="expunge's; OpenUnlearning takes the batch whole")
    parser.add_argument("--data", type=Path, help="JSON lines, or a .json file with an array, of question and answer")
    parser.add_argument("--full", action="store_true", help="train all weights")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    prepare_cpu(options.threads)
    tokenizer, shape = load_tokenizer(options.model), model_shape(options.model)
    sets = batches(options, tokenizer)
    # A GPU reaches its peak with larger matrices than those of a small model.
    peak = matmul_rate(8192, dtype=options.dtype, rows=8192) if GPU else matmul_rate(shape.hidden, dtype=options.dtype)
    where = torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} threads"
    print(f"peak of matrix products: {peak / 1e9:.1f} G operations/s in {options.dtype}, {where}")
    for name in options.methods:
        measure(name, options, tokenizer, sets, shape, peak)
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def done() -> float:
    """The time, once the GPU has done all it was told."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def batches(options: argparse.Namespace, tokenizer: Any) -> Batches:
    """As many examples as the steps take."""
    count = options.batch_size * options.steps
    if options.data is not None:
        rows = [row.value for row in read_rows(options.data)]
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
    held = {"expunge": 0, "OpenUnlearning": 0}
    before = allocated()
    model = made(name, options)
    others = {"forget other": sets.refusals} if Need.REFUSALS in method.needs else {}
    start = done()
    supplies = supply(
        method.needs,
        model,
        {"forget": sets.forget, "retain": sets.retain, "kept": []},
        plan,
        others=others,
        weights=None,
        layer=LAYER if name == "rmu" else None,
        shares=True,
        pad=pad,
    )
    once = done() - start
    ours = ours_step(model, supplies, lambda forget, retain: method.loss(config, forget, retain), sets, pad)
    own = {"expunge": allocated() - before}
    seconds: dict[str, list[float]] = {"expunge": [], "OpenUnlearning": []}
    theirs: Callable[[list[MicroBatch]], float] | None = None
    if options.open_unlearning is not None:
        theirs = theirs_step(name, options, made(name, options), sets, pad)
        own["OpenUnlearning"] = allocated() - before - own["expunge"]
    losses = []
    for number, step in enumerate(steps):
        row = {}
        for who, run in (("expunge", ours), ("OpenUnlearning", theirs)):
            if run is not None:
                rest = allocated() - own[who]
                begun = done()
                row[who] = run(step)
                ended = done()
                if number >= WARM_UP:
                    seconds[who].append(ended - begun)
                # What a first step leaves, such as an optimiser's averages, is this side's own from then on.
                own[who] = allocated() - rest
                held[who] = max(held[who], peak_allocated() - rest)
        losses.append(row)
    real = sum(len(side[place].tokens) for micro in plan[each * WARM_UP :] for side, place in places(micro, sets, others))
    line = f"{name:<10}"
    for who, found in seconds.items():
        if found:
            line += f" {who} {np.median(found):.{3 if GPU else 2}f} s a step, {real / sum(found):.0f} tokens/s"
            line += f", {held[who] / 1e9:.2f} GB;" if GPU else ";"
    trained = shape.sides * options.rank if not options.full else shape.parameters
    work = account(name, steps[-1], sets, shape, full=options.full, trained=trained)
    counts = [*work.values()]
    line += f" {counts[-1] / np.median(seconds['expunge']) / peak:.0%} of peak;"
    if seconds["OpenUnlearning"]:
        ratio = np.median(np.array(seconds["OpenUnlearning"]) / np.array(seconds["expunge"]))
        line += f" {counts[0] / np.median(seconds['OpenUnlearning']) / peak:.0%} of peak;"
        line += f" ratio {ratio:.2f}, by count {counts[0] / counts[-1]:.2f} ("
        savings = zip(work.items(), list(work.items())[1:], strict=False)
        line += ", ".join(f"{why} ×{before / after:.2f}" for (_, before), (why, after) in savings) + ");"
    line += f" target asked once: {once:.1f} s;"
    print(line + f" first losses {', '.join(f'{who} {loss:.4g}' for who, loss in losses[0].items())}", flush=True)


def allocated() -> int:
    """Bytes that PyTorch holds of the GPU; peaks are counted anew from here."""
    if not GPU:
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_allocated() -> int:
    """The most it held since `allocated` was last asked."""
    return torch.cuda.max_memory_allocated() if GPU else 0


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
            members = {"forget": micro.forget, "retain": micro.retain}
            members |= dict.fromkeys(supplies.others, micro.forget)
            examples = {"forget": sets.forget, "retain": sets.retain, **supplies.others}
            batches = {
                side: to_device(model, collate([examples[side][place] for place in found], pad))
                for side, found in members.items()
            }
            sides = {
                side: supplies.scores(side, found, list(members[side]), of_examples=counts[side][0], of_tokens=counts[side][1])
                for side, found in supplies.run(model, batches).items()
            }
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
        batch: TokenBatch = to_device(model, collate([examples[place] for place in found], pad))
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


REFERRED = {"npo": ("forget",), "undial": ("forget",), "idk-dpo": ("forget", "forget other"), "rmu": ("retain",)}
"""The sides that OpenUnlearning also passes through a frozen copy, in every step."""


def account(name: str, step: list[MicroBatch], sets: Batches, shape: Any, *, full: bool, trained: int) -> dict[str, float]:
    """What a step multiplies and adds, first as OpenUnlearning takes it, then with one saving after the other.

    Matrix products alone, those of attention too: softmaxes, norms and copies are left out.
    """
    head, width = shape.vocabulary * shape.hidden, shape.hidden * shape.layers
    forward = shape.linear + (0 if full else trained)
    backward = 2 * shape.linear if full else shape.linear + 2 * trained
    below, trained_layers = (LAYER + 1) / shape.layers, 3 / shape.layers
    forget, retain = ([place for micro in step for place in micro[side]] for side in (0, 1))
    sides = {"forget": [sets.forget[place] for place in forget], "retain": [sets.retain[place] for place in retain]}
    if name == "idk-dpo":
        sides["forget other"] = [sets.refusals[place] for place in forget]
    lengths = {side: [len(each.tokens) for each in members] for side, members in sides.items()}
    padded = {side: max(found) * len(found) for side, found in lengths.items()}
    labelled = {side: sum(each.labels for each in members) for side, members in sides.items()}
    real = {side: sum(found) for side, found in lengths.items()}
    again = REFERRED.get(name, ())

    def products(
        tokens: float, pairs: float, heads: float, referred: float, referred_pairs: float, referred_heads: float
    ) -> float:
        again = referred * forward + 2 * width * referred_pairs + referred_heads * head
        once = tokens * forward + 2 * width * pairs + heads * head
        back = tokens * backward + 4 * width * pairs + heads * head * (2 if full else 1)
        if name == "rmu":
            back = trained_layers * (tokens * backward + 4 * width * pairs)
        return 2 * (once + back + again)

    def cut(tokens: float, pairs: float) -> float:
        return 2 * (below * (tokens * forward + 2 * width * pairs) + trained_layers * (tokens * backward + 4 * width * pairs))

    whole, copied = sum(padded.values()), sum(padded[side] for side in again)
    squares = {side: padded[side] * max(lengths[side]) for side in sides}
    all_pairs, copied_pairs = sum(squares.values()), sum(squares[side] for side in again)
    # undial makes the reference's logits again of what was kept before its head.
    kept = labelled["forget"] if name == "undial" else 0
    labels = sum(labelled.values())
    tokens, pairs = sum(real.values()), sum(length**2 for found in lengths.values() for length in found)
    tree_tokens = tree_pairs = 0
    for micro in step:
        members = [sets.forget[place] for place in micro.forget] + [sets.retain[place] for place in micro.retain]
        members += [sets.refusals[place] for place in micro.forget] if name == "idk-dpo" else []
        sizes = [len(tree.tokens) for _, tree in forest([each.tokens for each in members], tokens_of_a_tree(DEVICE))]
        tree_tokens, tree_pairs = tree_tokens + sum(sizes), tree_pairs + sum(size**2 for size in sizes)
    found = {
        "OpenUnlearning": products(whole, all_pairs, whole, copied, copied_pairs, copied),
        "reference asked once": products(whole, all_pairs, whole, 0, 0, kept),
    }
    if name == "rmu":
        found["no layers above"] = cut(whole, all_pairs)
        found["no padding"] = cut(tokens, pairs)
        found["beginnings once"] = cut(tree_tokens, tree_pairs)
    else:
        found["head on labels alone"] = products(whole, all_pairs, labels, 0, 0, kept)
        found["no padding"] = products(tokens, pairs, labels, 0, 0, kept)
        found["beginnings once"] = products(tree_tokens, tree_pairs, labels, 0, 0, kept)
    return found


if __name__ == "__main__":
    main()
