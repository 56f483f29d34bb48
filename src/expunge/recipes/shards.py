"""`expunge shards`: adapters trained on disjoint shards of people, so that a deletion trains one of them anew and no other.

Bourtoule et al. 2019, arXiv 1912.03817 (SISA). Each shard's adapter is made of its own people alone; the shipped adapter is the
sum, or the mean, of the shards' updates, which is a function of the shard adapters and of nothing else. So what is left after a
deletion is what would have been trained without those people, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, write_examples
from expunge.files import directory_written_atomically, fingerprint, sha256, write_json
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.retrain import carried_out, without
from expunge.runs import Run, settings_of


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """What to learn, and in how many parts."""

    data_file: tuple[Path, ...]
    """JSON-lines files of examples to learn; a person's examples are all in one shard."""
    output: Path
    """Run directory; the combined adapter goes to its `model` folder, each shard to a run of its own."""
    model: str = "embedded"
    """`embedded`, a Hub id or a model directory; not an adapter."""
    shards: int = 4
    """In how many parts people are divided: the more, the less a deletion costs, and the less each part knows."""
    combine: Literal["sum", "mean"] = "sum"
    """How the shards' updates become one adapter. A mean dilutes what a single shard has learnt."""
    epochs: int = 10
    """How often every example is seen."""
    batch_size: int = 4
    """Examples a step."""
    learning_rate: float = 2e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "warmup-stable-decay"] = "cosine"
    """How the learning rate falls after the warm-up."""
    lora_rank: int = 16
    """Rank of each shard's adapter; the combined one has the sum of the ranks."""
    lora_alpha: int = 32
    """Scale of each shard's adapter."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    database: str | None = None
    """Ledger to record training uses and deletion requests in: a path or a database URL."""
    seed: int = 42
    """Fixes who is in which shard, the adapters' start and the order of examples."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""


@dataclass(frozen=True, kw_only=True)
class ForgetShardsConfig:
    """Who goes."""

    model: Path
    """The run directory that `expunge shards train` (or an earlier `expunge shards forget`) left."""
    forget: Path
    """Examples that must go; everybody named in them goes with all they have."""
    output: Path
    """Run directory of what is left, made like the first; the certificate goes to `certificate.json`."""
    database: str | None = None
    """Ledger in which the deletion request is filed and carried out: a path or a database URL."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""


def train_shards(config: ShardsConfig) -> Run:
    """Train every shard and combine them; resumes if killed, answers at once if done."""
    at_least(1, shards=config.shards, epochs=config.epochs, batch_size=config.batch_size, threads=config.threads)
    settings = _settings(config)
    examples = [example for path in config.data_file for example in read_examples(path)]
    inputs = {str(path): sha256(path) for path in config.data_file}
    with Run.open(config.output, "shards train", settings, inputs) as run:
        if not run.finished:
            _refuse_adapter(config.model)
            found = _trained(config, _divided(examples, config), run.path)
            outputs, results = _combined(found, config, run.path)
            run.finish(outputs, **results)
        return run


def forget_shards(config: ForgetShardsConfig) -> Run:
    """Train the shards of those who go anew without them, from the base; the other shards are taken as they are.

    Raises:
        ExpungeError: `model` is no run of shards, or none of them is in it.
    """
    at_least(1, threads=config.threads)
    before = Run.read(config.model)
    if not before.manifest["command"].startswith("shards"):
        raise ExpungeError("is no run of `expunge shards`", where=config.model, remedy="name one")
    forget = read_examples(config.forget)
    settings = before.manifest["settings"]
    made = ShardsConfig(
        **{
            **{field.name: settings[field.name] for field in fields(ShardsConfig) if field.name in settings},
            "data_file": (),
            "output": config.output,
            "database": config.database,
            "threads": config.threads,
        }
    )
    inputs = {str(config.forget): sha256(config.forget), "before": fingerprint(before.manifest["outputs"])}
    with Run.open(config.output, "shards forget", settings, inputs) as run:
        if run.finished:
            return run
        old = {int(number): found for number, found in before.results["shards"].items()}
        parts, touched, gone = {}, [], 0
        for number in old:
            left, out = without(read_examples(before.path / "data" / f"shard-{number}.jsonl"), forget)
            gone += len(out)
            if out:
                touched.append(number)
            if left:
                parts[number] = left
        if not touched:
            raise ExpungeError("none of them is in any shard", where=config.forget, remedy="there is nothing to unlearn")
        for number in parts.keys() - set(touched):
            place = run.path / f"shard-{number}" / "model"
            if not place.exists():
                with directory_written_atomically(place) as scratch:
                    shutil.copytree(before.path / f"shard-{number}" / "model", scratch, dirs_exist_ok=True)
        found = _trained(made, parts, run.path, anew=touched, kept=old)
        outputs, results = _combined(found, made, run.path)
        certificate = {
            "method": "shards of those who go trained anew from the base without them",
            "model": outputs["model"],
            "shards trained anew": {str(number): found.get(number, "empty") for number in touched},
            "shards as they were": {str(number): found[number] for number in sorted(found.keys() - set(touched))},
            "data": {str(number): sha256(run.path / "data" / f"shard-{number}.jsonl") for number in sorted(parts)},
            "settings": settings,
            "left out": {"examples": gone, "fingerprint": fingerprint(sorted(example.id for example in forget))},
        }
        write_json(run.path / "certificate.json", certificate)
        request = carried_out(config.database, forget, config.forget.name, run.path, "shards forget", certificate)
        run.finish({**outputs, "certificate.json": ""}, **results, retrained=touched, request=request)
        return run


def shard_of(subject: str, *, shards: int, seed: int) -> int:
    """The shard of a person, by the name alone: it does not change when others come or go."""
    digest = hashlib.sha256(f"{seed}/{subject.casefold()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards


def combine_adapters(adapters: list[Path], output: Path, *, weight: float) -> None:
    """One LoRA adapter whose update is `weight` times the sum of the updates of others with the same settings.

    The factors are stacked: B₁A₁ + B₂A₂ = [B₁ B₂] · [A₁; A₂].
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights = [load_file(path / "adapter_model.safetensors") for path in adapters]
    stacked = {}
    for name in sorted(weights[0]):
        parts = [each[name] for each in weights]
        stacked[name] = torch.cat(parts, 0) if "lora_A" in name else weight * torch.cat(parts, 1)
    with directory_written_atomically(output) as scratch:
        shutil.copytree(adapters[0], scratch, dirs_exist_ok=True)
        save_file(stacked, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.loads((scratch / "adapter_config.json").read_text("utf-8"))
        # Alpha over rank, the scale of the update, stays as it is.
        config |= {"r": config["r"] * len(adapters), "lora_alpha": config["lora_alpha"] * len(adapters)}
        write_json(scratch / "adapter_config.json", config)


def _settings(config: ShardsConfig) -> dict[str, Any]:
    return settings_of(config, without=("output", "threads", "database", "data_file"))


def _refuse_adapter(model: str) -> None:
    from expunge.models import resolve_base

    if resolve_base(model) != model:
        raise ExpungeError("is an adapter; every shard starts one of its own", where=model, remedy="name its base")


def _divided(examples: list[Example], config: ShardsConfig) -> dict[int, list[Example]]:
    parts: dict[int, list[Example]] = {}
    for example in examples:
        parts.setdefault(shard_of(example.subject, shards=config.shards, seed=config.seed), []).append(example)
    return parts


def _trained(
    config: ShardsConfig,
    parts: dict[int, list[Example]],
    place: Path,
    *,
    anew: list[int] | None = None,
    kept: dict[int, str] | None = None,
) -> dict[int, str]:
    """The fingerprint of each shard's adapter; only the shards `anew` are trained, all where None."""
    found = {}
    (place / "data").mkdir(exist_ok=True)
    for number, examples in sorted(parts.items()):
        file = place / "data" / f"shard-{number}.jsonl"
        if not file.exists():
            write_examples(file, examples)
        if anew is not None and number not in anew:
            assert kept is not None
            found[number] = kept[number]
            continue
        run = finetune(
            FinetuneConfig(
                data_file=(file,),
                output=place / f"shard-{number}",
                model=config.model,
                epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                schedule=config.schedule,
                lora_rank=config.lora_rank,
                lora_alpha=config.lora_alpha,
                max_seq_length=config.max_seq_length,
                keep_checkpoints=0,
                database=config.database,
                seed=config.seed,
                threads=config.threads,
            )
        )
        found[number] = run.manifest["outputs"]["model"]
    return found


def _combined(found: dict[int, str], config: ShardsConfig, place: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The outputs and results of a run."""
    from expunge.models import model_fingerprint

    if not found:
        raise ExpungeError("nobody is left", remedy="ship the base")
    adapters = [place / f"shard-{number}" / "model" for number in sorted(found)]
    if not (place / "model").exists():
        combine_adapters(adapters, place / "model", weight=1.0 if config.combine == "sum" else 1 / len(adapters))
    return {"model": model_fingerprint(place / "model")}, {"shards": {str(number): each for number, each in found.items()}}
