"""`expunge finetune`: teach a model examples, and write down in the ledger which ones it saw and which tokens mattered."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from expunge.errors import at_least
from expunge.examples import read_examples
from expunge.files import fingerprint, sha256
from expunge.progress import console, progress
from expunge.runs import Run, settings_of
from expunge.training.impact import ImpactConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What to learn, and how."""

    data_file: tuple[Path, ...]
    """JSON-lines files of examples to learn; several are learnt together."""
    output: Path
    """Run directory; the adapter goes to its `model` folder."""
    model: str = "embedded"
    """`embedded`, a Hub id, a model directory, or an adapter to train further."""
    ordinary: Path | None = None
    """Examples of ordinary text mixed in, so that general ability survives."""
    ordinary_share: float = 0.1
    """How many ordinary examples an epoch takes, as a share of the others."""
    epochs: int = 10
    """How often every example is seen."""
    batch_size: int = 4
    """Examples a step."""
    micro_batch_size: int = 4
    """Examples that go through the model together; lower it when memory is short: the result stays the same."""
    learning_rate: float = 2e-4
    """Peak learning rate; LoRA wants ten times that of full fine-tuning, and a small model more than a large one."""
    lora_rank: int = 16
    """Rank of the adapter on every linear layer."""
    lora_alpha: int = 32
    """Scale of the adapter: its update is multiplied by alpha / rank."""
    max_seq_length: int = 512
    """Longest example in tokens; longer ones are cut off, counted and named."""
    checkpoint_steps: int = 20
    """Steps between two checkpoints, from which a killed run continues."""
    database: str | None = None
    """Ledger to record training uses and token impacts in: a path or a database URL."""
    seed: int = 42
    """Fixes the adapter's start and the order of examples."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""


def finetune(config: FinetuneConfig, impact: ImpactConfig | None = None) -> Run:
    """Fine-tune an adapter on examples; resumes if killed, answers at once if done.

    Args:
        impact: which tokens the ledger keeps; None: the defaults.
    """
    from expunge.models import check_readable, model_fingerprint

    at_least(1, epochs=config.epochs, batch_size=config.batch_size, micro_batch_size=config.micro_batch_size)
    at_least(1, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha, checkpoint_steps=config.checkpoint_steps)
    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads)
    at_least(0, learning_rate=config.learning_rate, ordinary_share=config.ordinary_share, seed=config.seed)
    impact = impact or ImpactConfig()
    impact.check()
    by_file = {path: read_examples(path) for path in config.data_file}
    examples = [example for found in by_file.values() for example in found]
    ordinary = read_examples(config.ordinary) if config.ordinary else []
    check_readable(config.model)
    inputs = {str(path): sha256(path) for path in (*config.data_file, *([config.ordinary] if config.ordinary else []))}
    inputs["model"] = model_fingerprint(config.model)
    settings = settings_of(config, without=("output", "threads", "database", "micro_batch_size")) | settings_of(impact)
    with Run.open(config.output, "finetune", settings, inputs) as run:
        if run.finished:
            return run
        if config.database:
            from expunge.ledger import Ledger

            # Before the model is loaded: a bad place should be known at once.
            with Ledger.open(config.database) as ledger:
                ledger.refuse_read_only()
        with run.timed("load"):
            from expunge.batching import tokenize
            from expunge.models import fresh_adapter, load_model, load_tokenizer, prepare_cpu, resolve_base
            from expunge.training.finetuning import answer_loss
            from expunge.training.plan import plan_epochs
            from expunge.training.trainer import PlannedTrainer, Schedule, save_model

            prepare_cpu(config.threads)
            tokenizer = load_tokenizer(config.model)
            tokens = tokenize([*examples, *ordinary], tokenizer, max_seq_length=config.max_seq_length)
            truncated = sum(example.truncated for example in tokens)
            if truncated:
                console.print(f"{truncated} of {len(tokens)} examples are cut off at {config.max_seq_length} tokens.")
            model = load_model(config.model, trainable=True)
            if resolve_base(config.model) == config.model:
                model = fresh_adapter(model, config.model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        batch_size = min(config.batch_size, len(examples))
        plan = plan_epochs(
            [len(example.tokens) for example in tokens],
            extra=len(ordinary),
            extra_share=config.ordinary_share,
            epochs=config.epochs,
            batch_size=batch_size,
            micro_batch_size=config.micro_batch_size,
            seed=config.seed,
        )
        accumulate = -(-batch_size // config.micro_batch_size)
        steps = len(plan) // accumulate
        with ExitStack() as stack:
            recorder = None
            if config.database:
                ledger = stack.enter_context(Ledger.open(config.database))
                for path, found in (by_file | ({config.ordinary: ordinary} if config.ordinary else {})).items():
                    ledger.add_entries(found, source=path.name)
                checkpoint = fingerprint([settings, inputs])
                ledger_run = ledger.start_run(
                    name=f"finetune {run.path.name}", path=run.path, checkpoint=checkpoint, impact_estimator=impact.impact
                )
                recorder = stack.enter_context(ledger.recorder(ledger_run))
            trainer = PlannedTrainer(
                model,
                tokenizer,
                answer_loss,
                plan,
                tokens,
                schedule=Schedule(
                    learning_rate=config.learning_rate,
                    warmup_steps=max(1, steps // 20),
                    # Whose note it is, is learnt last, when a cosine would already have taken most of the rate away.
                    kind="warmup_stable_decay",
                    accumulate=accumulate,
                    checkpoint_steps=config.checkpoint_steps,
                    seed=config.seed,
                ),
                directory=run.path / "checkpoints",
                bar=stack.enter_context(progress(f"Fine-tuning {run.path.name}", steps)),
                recorder=recorder,
                impact=impact,
            )
            with run.timed("train"):
                trainer.run()
        saved = save_model(trainer, tokenizer, run.path)
        run.finish({"model": saved}, steps=steps, truncated=truncated, trace=trainer.trace)
        return run
