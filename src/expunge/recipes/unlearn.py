"""`expunge unlearn METHOD`: carry out a deletion request, and stop where people never trained on are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, refuse_overlap
from expunge.files import fingerprint, sha256
from expunge.progress import console, progress
from expunge.runs import Run, settings_of
from expunge.training.impact import ImpactConfig

if TYPE_CHECKING:
    from expunge.ledger.recorded import RecordedImpacts
    from expunge.training.objective import Method


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """What to forget, what to keep, and when to stop."""

    model: str
    """The target: an adapter or model directory, a Hub id, or `embedded`."""
    forget: Path
    """Examples that must go."""
    retain: Path
    """Examples that must stay."""
    output: Path
    """Run directory; the unlearned adapter goes to its `model` folder."""
    holdout: Path | None = None
    """Examples of the same kind that were never trained on: unlearning stops at their level instead of going beyond."""
    steps: int = 40
    """Steps at most."""
    batch_size: int = 4
    """Forget examples a step, with as many retain examples beside them."""
    micro_batch_size: int = 2
    """Of each side, how many go through the model together; lower it when memory is short: the result stays the same."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    eval_steps: int = 2
    """Steps between two comparisons with the holdout."""
    lora_rank: int = 16
    """Rank of the adapter, when the target is not one already."""
    lora_alpha: int = 32
    """Scale of that adapter."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    database: str | None = None
    """Ledger in which the deletion request is filed and carried out: a path or a database URL."""
    seed: int = 42
    """Fixes the order of examples."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""


def unlearn(config: UnlearnConfig, method_name: str, method_config: Any, impact: ImpactConfig | None = None) -> Run:
    """Unlearn the forget set with a method; resumes if killed, answers at once if done.

    Args:
        impact: which tokens the ledger keeps; None: the defaults.
    """
    from expunge.methods import METHODS
    from expunge.models import check_readable, model_fingerprint

    method: Method = METHODS[method_name]
    at_least(1, steps=config.steps, batch_size=config.batch_size, micro_batch_size=config.micro_batch_size)
    at_least(1, eval_steps=config.eval_steps, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha)
    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads)
    at_least(0, learning_rate=config.learning_rate, seed=config.seed)
    impact = impact or ImpactConfig()
    impact.check()
    forget, retain = read_examples(config.forget), read_examples(config.retain)
    holdout = read_examples(config.holdout) if config.holdout else []
    refuse_overlap(forget, retain)
    refuse_overlap([*forget, *retain], holdout)
    check_readable(config.model)
    files = (config.forget, config.retain, *([config.holdout] if config.holdout else []))
    inputs = {str(path): sha256(path) for path in files} | {"model": model_fingerprint(config.model)}
    settings = settings_of(config, without=("output", "threads", "database", "micro_batch_size")) | settings_of(impact)
    settings["method"] = settings_of(method_config)
    recorded = _recorded(config, method, method_config, forget)
    if recorded is not None:
        inputs["impacts"] = fingerprint([[name, *found.top_tokens] for name, found in recorded.impacts.items()])
    with Run.open(config.output, f"unlearn {method.name}", settings, inputs) as run:
        if run.finished:
            return run
        if config.database:
            from expunge.ledger import Ledger

            # Before the model is loaded: a bad place should be known at once.
            with Ledger.open(config.database) as ledger:
                ledger.refuse_read_only()
        with run.timed("load"):
            import torch

            from expunge.batching import tokenize
            from expunge.evidence import label_log_p
            from expunge.models import fresh_adapter, load_model, load_tokenizer, prepare_cpu, resolve_base
            from expunge.training.objective import Need
            from expunge.training.plan import plan_pairs
            from expunge.training.stopping import StopAtHoldout
            from expunge.training.trainer import PlannedTrainer, Schedule, save_model
            from expunge.training.weighting import label_weights

            prepare_cpu(config.threads)
            tokenizer = load_tokenizer(config.model)
            forget_tokens, retain_tokens, holdout_tokens = (
                tokenize(examples, tokenizer, max_seq_length=config.max_seq_length) for examples in (forget, retain, holdout)
            )
            weights = None
            if Need.IMPACT in method.needs:
                for example, tokens in zip(forget, forget_tokens, strict=True):
                    if recorded is not None and example.id in recorded.impacts:
                        recorded.impacts[example.id].refuse_other_tokens(tokens.tokens, example.where)
                weights = label_weights(
                    forget_tokens,
                    recorded.impacts if recorded is not None else {},
                    weights=method_config.weights,
                    floor=method_config.weight_floor,
                    seed=config.seed,
                )
            model = load_model(config.model, trainable=True)
            if resolve_base(config.model) == config.model:
                model = fresh_adapter(model, config.model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        reference = None
        if Need.REFERENCE in method.needs:
            # Once an example, before the first step: the frozen target need not stay in memory or be run again.
            with run.timed("reference"):
                log_p = label_log_p(model, forget_tokens, pad=tokenizer.pad_token_id)
                weighted = log_p if weights is None else map(torch.mul, log_p, weights)
                reference = torch.stack([log_p_K.sum() for log_p_K in weighted])
        batch_size = min(config.batch_size, len(forget))
        plan = plan_pairs(
            len(forget),
            len(retain) if Need.RETAIN in method.needs else 0,
            steps=config.steps,
            batch_size=batch_size,
            micro_batch_size=config.micro_batch_size,
            seed=config.seed,
        )
        with ExitStack() as stack:
            recorder = request = None
            if config.database:
                ledger = stack.enter_context(Ledger.open(config.database))
                ledger.add_entries(forget, source=config.forget.name)
                ledger.add_entries(retain, source=config.retain.name)
                subjects = sorted({example.subject for example in forget})
                request = ledger.request_deletion(subjects=subjects, reason=f"named in {config.forget.name}")
                checkpoint = fingerprint([settings, inputs])
                ledger_run = ledger.start_run(
                    name=f"unlearn {method.name}", path=run.path, checkpoint=checkpoint, impact_estimator=impact.impact
                )
                recorder = stack.enter_context(ledger.recorder(ledger_run))
            stop = StopAtHoldout(forget_tokens, holdout_tokens, every=config.eval_steps, pad=tokenizer.pad_token_id)
            trainer = PlannedTrainer(
                model,
                tokenizer,
                partial(method.loss, method_config),
                plan,
                forget_tokens,
                retain_tokens,
                schedule=Schedule(
                    learning_rate=config.learning_rate,
                    warmup_steps=2,
                    kind="constant_with_warmup",
                    accumulate=-(-batch_size // config.micro_batch_size),
                    # At an evaluation, so that a resumed run knows the weights it was last compared at.
                    checkpoint_steps=4 * config.eval_steps,
                    seed=config.seed,
                ),
                directory=run.path / "checkpoints",
                bar=stack.enter_context(progress(f"Unlearning with {method.name}", config.steps)),
                recorder=recorder,
                impact=impact,
                reference=reference,
                weights=weights,
                callbacks=[stop] if holdout else [],
            )
            with run.timed("train"):
                trainer.run()
            saved = save_model(trainer, tokenizer, run.path)
            if recorder is not None and request is not None:
                recorder.flush()
                # Also those that were filed for some of these people or entries.
                covered = ledger.requests_covered_by(example.id for example in forget)
                for number in sorted({request.id, *(each.id for each in covered)}):
                    ledger.mark_unlearned(number, run=ledger_run)
        stopped = stop.reason if holdout else f"after {config.steps} steps: no holdout was given to stop at"
        console.print(f"Stopped: {stopped}.", soft_wrap=True, markup=False)
        run.finish(
            {"model": saved},
            steps=trainer.state.global_step,
            stopped=stopped,
            trace=trainer.trace,
            **({} if recorded is None else {"impacts": f"of run {recorded.run_id}, {recorded.run}"}),
            request=request.id if request is not None else None,
        )
        return run


def _recorded(config: UnlearnConfig, method: Method, method_config: Any, forget: Sequence[Example]) -> RecordedImpacts | None:
    """The token impacts of the forget set that the ledger holds; None where they are not asked for.

    Raises:
        ExpungeError: there is no ledger, or none in it.
    """
    from expunge.training.objective import Need

    if Need.IMPACT not in method.needs:
        return None
    at_least(0, weight_floor=method_config.weight_floor)
    if method_config.weights == "uniform":
        return None
    if config.database is None:
        raise ExpungeError(
            f"{method.name} weighs tokens by impacts recorded in a ledger, and none was named",
            remedy="pass the --database that the target was fine-tuned with, or --weights uniform",
        )
    from expunge.ledger import Ledger

    with Ledger.open(config.database, create=False) as ledger:
        ids = [example.id for example in forget]
        # The run directory of a target made here is the one its `model` folder lies in.
        recorded = ledger.impacts_of(ids, run_id=method_config.impact_run, path=Path(config.model).parent)
    missing = len({*ids} - {*recorded.impacts})
    if missing:
        console.print(f"{missing} forget examples have no recorded impacts in run {recorded.run_id}: weighted evenly.")
    return recorded
