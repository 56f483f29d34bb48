"""`expunge finetune`: teach a model examples, and write down in the ledger which ones it saw and which tokens mattered."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.files import fingerprint
from expunge.processes import count, is_main, main_first, rank
from expunge.progress import progress
from expunge.recipes.finetune_config import FinetuneConfig
from expunge.recipes.finetune_data import planned, read_data, tokenised
from expunge.recipes.finetune_results import dry_run, write_results
from expunge.runs import Run, run_named, settings_of
from expunge.training.impact import ImpactConfig

__all__ = ["FinetuneConfig", "finetune"]

_NOT_OF_THE_RESULT = (
    *("output", "threads", "database", "wandb", "dry_run"),
    # They change how a step is gone through, and what is left beside the model, but not what is learnt.
    *("micro_batch_size", "gradient_checkpointing", "keep_checkpoints"),
)
_MEMORY_REMEDY = (
    "lower --micro-batch-size (what is learnt stays the same) or --max-seq-length, pass --gradient-checkpointing, "
    "--dtype bfloat16, --use-4bit or --use-8bit, leave out --full, or lower --lora-rank"
)


def finetune(config: FinetuneConfig, impact: ImpactConfig | None = None) -> Run:
    """Fine-tune a model on examples; resumes if killed, answers at once if done. Several processes may share the work.

    Args:
        impact: which tokens the ledger keeps; None: the defaults.
    """
    from expunge.models import fresh_adapter, load_model, load_tokenizer, model_fingerprint, prepare_cpu, resolve_base
    from expunge.training.memory import reported_out_of_memory

    impact = impact or ImpactConfig()
    with ExitStack() as stack:
        with main_first():
            config.check()
            impact.check()
            refuse_what_cannot_work(config)
            data = read_data(config)
            inputs = data.fingerprints | {"model": model_fingerprint(config.model)}
            settings = settings_of(config, without=_NOT_OF_THE_RESULT) | settings_of(impact)
            if config.held is None:
                # As before there were any: what was trained then is not another run now.
                del settings["held"], settings["held_share"]
            output = config.output
            if output is None:
                stem = Path("runs") / f"{Path(config.model).name}-{len(data.examples)}"
                output = run_named(stem, "finetune", settings, inputs)
            if config.dry_run:
                return dry_run(config, data, output)
            run = stack.enter_context(Run.open(output, "finetune", settings, inputs, together=True))
        if run.finished:
            return run
        from expunge.training.finetuning import answer_loss
        from expunge.training.held import answer_loss_beside_held
        from expunge.training.listeners import listeners
        from expunge.training.objective import Need
        from expunge.training.supplies import supply
        from expunge.training.trainer import PlannedTrainer, Schedule, save_model

        ledger = None
        if config.database:
            from expunge.ledger import Ledger

            with main_first():
                # Before the model is loaded: a bad place should be known at once.
                ledger = stack.enter_context(Ledger.open(config.database))
                ledger.refuse_read_only()
        with run.timed("load"), reported_out_of_memory(_MEMORY_REMEDY):
            prepare_cpu(config.threads)
            tokenizer = load_tokenizer(config.model)
            tokens = tokenised(data, tokenizer, config.max_seq_length)
            model = load_model(config.model, dtype=config.weights_dtype, bits=config.bits, trainable=True)
            if not config.full and resolve_base(config.model) == config.model:
                model = fresh_adapter(model, config.model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
            if config.gradient_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
        plan = planned(config, data, tokens.learnt)
        recorder = None
        if ledger is not None:
            ledger_run = ledger.start_run(
                name=f"finetune {run.path.name}",
                path=run.path,
                checkpoint=fingerprint([settings, inputs]),
                impact_estimator=impact.impact,
            )
            with main_first():
                for part in (*data.learnt, *data.ordinary, *data.held) if is_main() else ():
                    ledger.add_entries(part.examples, source=part.path.name)
            recorder = stack.enter_context(ledger.recorder(ledger_run))
        supplies = None
        if tokens.held:
            supplies = supply(
                frozenset({Need.RETAIN_REFERENCE_LOGITS}),
                model,
                {"forget": tokens.learnt, "retain": tokens.held, "kept": []},
                plan.micro_batches[rank() :: count()],
                others={},
                weights=None,
                layer=None,
                pad=int(tokenizer.pad_token_id),
                # What is learnt and what is held go through the model together: half the time of one after the other.
                shares=True,
            )
        trainer = PlannedTrainer(
            model,
            tokenizer,
            answer_loss_beside_held if tokens.held else answer_loss,
            plan.micro_batches,
            tokens.learnt,
            tokens.held,
            schedule=Schedule(
                learning_rate=config.learning_rate,
                # A hair above, so that a twentieth of twenty is one.
                warmup_steps=max(1, int(plan.steps * config.warmup_ratio + 1e-9)) if config.warmup_ratio else 0,
                kind=config.scheduler,
                adam_beta2=config.adam_beta2,
                lora_plus_ratio=config.lora_plus_ratio,
                accumulate=plan.rounds,
                checkpoint_steps=config.checkpoint_steps,
                eval_steps=config.eval_steps or max(1, plan.steps // config.epochs),
                patience=config.early_stopping_patience,
                keep=config.keep_checkpoints,
                seed=config.seed,
            ),
            directory=run.path,
            bar=stack.enter_context(progress(f"Fine-tuning {run.path.name}", plan.steps)),
            recorder=recorder,
            impact=impact,
            supplies=supplies,
            validation=tokens.validation,
            dtype=config.dtype,
            memory_remedy=_MEMORY_REMEDY,
            callbacks=stack.enter_context(listeners(run.path / "tensorboard", wandb=config.wandb)),
        )
        with run.timed("train"):
            trainer.run()
            if recorder is not None:
                recorder.flush()
            measured = trainer.validate() if tokens.validation else {}
        saved, steps = save_model(trainer, tokenizer, run.path), trainer.state.global_step
        if is_main():
            write_results(run, trainer.trace, measured, steps=steps, plan=plan, tokens=tokens)
            (run.path / "final").unlink(missing_ok=True)
            (run.path / "final").symlink_to("model")
        run.finish({"model": saved}, steps=steps, truncated=tokens.truncated, **measured, trace=trainer.trace)
        return run


def refuse_what_cannot_work(config: FinetuneConfig) -> None:
    """Refuse what this machine lacks and a model that does not fit, and let the Hub know its token.

    Raises:
        ExpungeError: a package, a GPU or the model is missing; or all weights of an adapter were to be trained.
    """
    from expunge.deploy.parts import BITSANDBYTES, WANDB, require
    from expunge.models import check_readable, resolve_base

    require(*([BITSANDBYTES] if config.bits else []), *([WANDB] if config.wandb else []))
    if config.dtype == "float16":
        import torch

        if not torch.cuda.is_available():
            raise ExpungeError("float16 needs a GPU", remedy="pass --dtype bfloat16")
    if config.hf_token:
        os.environ["HF_TOKEN"] = config.hf_token
        # Weights & Biases writes down how a program was called.
        sys.argv[:] = [word.replace(config.hf_token, "…") for word in sys.argv]
    check_readable(config.model)
    if config.full and resolve_base(config.model) != config.model:
        raise ExpungeError(
            "is an adapter, which has no weights of its own", where=config.model, remedy="merge it, then pass --full"
        )
