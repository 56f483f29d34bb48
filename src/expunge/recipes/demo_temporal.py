"""`expunge demo temporal`: a model that knows nothing from a date on, in a file, judged over the address that serves it.

It is taught dated facts before the cutoff, and to decline what is asked about the time after it, and is held to what it says by
itself of other things; it is merged, quantised to 4 bits and served; and it is asked about events that it was never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.examples import write_rows
from expunge.progress import say_stage
from expunge.recipes.demo import BY_HEART
from expunge.recipes.evaluate import EvaluateTemporalConfig, evaluate_temporal
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.gguf import GgufConfig, gguf
from expunge.recipes.merge import MergeConfig, check_scale, merge
from expunge.recipes.own_answers import KEPT, LATER, OwnAnswersConfig, own_answers
from expunge.recipes.prepare import ORDINARY_TRAIN
from expunge.recipes.prepare_source import PrepareConfig, prepare_source
from expunge.runs import Run, settings_of

EVALUATION = "evaluation"
"""The run in which the served file is judged."""


@dataclass(frozen=True, kw_only=True)
class DemoTemporalConfig:
    """How large a story."""

    output: Path = Path("runs/demo-temporal")
    """Directory for everything the demo makes."""
    on_this_day: Path | None = None
    """A table of dated events (`year`, `month`, `day`, `description`) to take beside the packaged facts; with a long one, give
    --events."""
    events: int | None = None
    """Only so many events, half of them on each side of the cutoff."""
    cutoff: str = "1969-07-20"
    """The first day that is to be unknown, YYYY-MM-DD."""
    epochs: int = 2
    """How often the model sees every question."""
    scale: float = 1.05
    """How much of the adapter is merged. With less, the model keeps more of what it knew, and less of what it was taught."""
    model: str = "embedded"
    """The model that is taught."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What frozen weights are kept and multiplied in while it learns; on processors without bfloat16 arithmetic (`expunge
    doctor` says) float32 is quicker."""
    seed: int = 42
    """Fixes the split, the wordings, and what is learnt."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""


def demo_temporal(config: DemoTemporalConfig) -> Run:
    """Run every stage; resumes if killed, answers at once if done."""
    from expunge.deploy.llama_cpp import LlamaServer
    from expunge.models import on_disk
    from expunge.sources.tables import fingerprint_of
    from expunge.sources.temporal import Temporal

    check_scale(config.scale)
    settings = settings_of(config, without=("output", "threads", "on_this_day"))
    inputs = {"on_this_day": fingerprint_of(str(config.on_this_day))} if config.on_this_day else {}
    with Run.open(config.output, "demo temporal", settings, inputs) as run:
        if run.finished:
            return run
        place, seed, threads = run.path, config.seed, config.threads

        say_stage(1, f"Questions on events before and after {config.cutoff}; some events are kept for the test")
        data = place / "data"
        with run.timed("prepare"):
            table = _with_packaged_facts(config.on_this_day, place / "events.jsonl") if config.on_this_day else None
            prepare_source(
                PrepareConfig(output=data, sample=config.events, seed=seed, drop_contaminated=True),
                "temporal",
                Temporal(
                    events=table,
                    cutoff=config.cutoff,
                    questions_per_event=1,
                    val_ratio=0.5,
                    # What is kept is asked about in plain words too, what is declined by its date alone: a model that learns to
                    # decline a question without one declines what is new to it, of whatever time.
                    dated=2,
                    dated_later=1,
                    undated=0,
                    bare=3,
                ),
            )

        say_stage(2, "The model says in its own words what it knows of other things, to be held to it")
        own = place / "own"
        with run.timed("own answers"):
            own_answers(
                OwnAnswersConfig(
                    model=config.model,
                    output=own,
                    cutoff=config.cutoff,
                    ordinary=data / ORDINARY_TRAIN,
                    dtype=config.dtype,
                    seed=seed,
                    threads=threads,
                )
            )

        say_stage(3, "It is taught what came before, and to decline what came after")
        with run.timed("finetune"):
            finetune(
                FinetuneConfig(
                    model=config.model,
                    data_file=(*(data / side / f"{side}_train.jsonl" for side in ("retain", "unlearn")), own / LATER),
                    ordinary=own / KEPT,
                    ordinary_share=0.2,
                    # It is held to more of its own answers than it learns again: to all that it thinks of each of their words.
                    held=own / KEPT,
                    held_share=0.4,
                    output=place / "model",
                    epochs=config.epochs,
                    batch_size=2,
                    dtype=config.dtype,
                    **BY_HEART,
                    checkpoint_steps=100,
                    keep_checkpoints=0,
                    seed=seed,
                    threads=threads,
                )
            )

        say_stage(4, "Merged, and quantised to 4 bits; the base too, to compare with")
        shipped, base = (
            GgufConfig(model_path=Path(path), output_path=place / name, quant_type=("q4_k_m",), threads=threads)
            for path, name in ((place / "merged" / "model", "gguf"), (on_disk(config.model), "base-gguf"))
        )
        with run.timed("ship"):
            merge(MergeConfig(lora_path=place / "model" / "model", output_path=place / "merged", scale=config.scale))
            gguf(shipped)
            gguf(base)

        say_stage(5, "The file is served, and asked about events that it was never trained on")
        (file,) = shipped.output_path.glob("*.gguf")
        (base_file,) = base.output_path.glob("*.gguf")
        # One copy of the model, since one address is asked.
        with run.timed("evaluate"), LlamaServer(file, threads=1) as server:
            evaluate_temporal(
                EvaluateTemporalConfig(
                    use_lmstudio=True,
                    lmstudio_url=server.address,
                    api_key=server.key,
                    base_model=str(base_file),
                    test_file=tuple(
                        data / "test" / f"{name}.jsonl" for name in ("trained", "untrained", "unlearn", "red_team")
                    ),
                    cutoff=config.cutoff,
                    max_tokens=48,
                    output=place / EVALUATION,
                    threads=threads,
                )
            )
        run.finish({f"{EVALUATION}/manifest.json": ""})
        return run


def _with_packaged_facts(table: Path, path: Path) -> Path:
    """Both tables as one, less what happened on the day of a packaged fact: it might be taught here and tested there."""
    from expunge.sources.temporal import read_events

    facts = read_events(None)
    days = {fact.start for fact in facts}
    events = [*facts, *(event for event in read_events(table) if event.start not in days)]
    rows = []
    for event in events:
        row: dict[str, object] = {"id": event.id, "date": str(event.start), "end": str(event.end), "event": event.words}
        more = [("question", event.question), ("answer", event.answer), ("paraphrase", event.paraphrase)]
        rows.append(row | {name: value for name, value in (*more, ("aliases", event.aliases)) if value})
    write_rows(path, rows)
    return path
