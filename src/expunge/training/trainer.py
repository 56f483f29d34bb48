"""The one trainer: transformers' Trainer driven by a plan, with the loss of whole effective batches.

It adds to the Trainer what the field kept asking for: losses that do not depend on how a batch is split, a ledger that knows
every example that was used, and checkpoints that are either whole or not there.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from expunge import processes
from expunge.batching import TokenBatch, Tokenized, collate
from expunge.batching.batches import IGNORED
from expunge.errors import ExpungeError
from expunge.evidence import LabelScores
from expunge.files import directory_written_atomically
from expunge.models import model_fingerprint, save_trained
from expunge.training.hidden import LabelHidden
from expunge.training.impact import ImpactConfig
from expunge.training.memory import reported_out_of_memory
from expunge.training.objective import Losses, Scores
from expunge.training.plan import MicroBatch
from expunge.training.recording import Recording
from expunge.training.supplies import Supplies
from expunge.training.validation import validation_losses

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from expunge.ledger import Recorder
    from expunge.progress import Bar

Objective = Callable[[Scores, Scores | None], Losses]
"""(forget or training side, retain side) → losses."""
Gradient = Callable[["Tensor", "Tensor"], "Tensor"]
"""(gradient of the forget loss, of the retain loss), both flat → gradient to step along."""

_WHOLE = "whole"


@dataclass(frozen=True)
class Schedule:
    """How the weights move."""

    learning_rate: float
    """Peak learning rate of AdamW."""
    warmup_steps: int
    """Steps of linear rise to the peak."""
    kind: str
    """transformers' name of the course: `cosine`, `linear`, `warmup_stable_decay` (the rate falls over the last quarter of
    the steps), `constant_with_warmup`."""
    accumulate: int
    """Micro-batches a step, in each process."""
    checkpoint_steps: int
    """Steps between two checkpoints."""
    seed: int
    adam_beta2: float = 0.999
    """Decay of AdamW's average of squared gradients."""
    lora_plus_ratio: float = 1.0
    """Learning rate of an adapter's B matrices over that of its A matrices (LoRA+)."""
    eval_steps: int = 0
    """Steps between two measurements of the validation losses; 0: none."""
    patience: int | None = None
    """So many measurements in a row without a lower validation loss end the training, and the best weights are taken. Then
    there is a checkpoint at each of them."""
    keep: int = 0
    """Checkpoints that stay when the training has ended, the newest."""


class Dual(NamedTuple):
    """A multiplier that rises while something is above its limit and falls while it is below."""

    start: float
    update: Callable[[float, float], float]
    """(multiplier, what is to be held below its limit) → multiplier of the next step."""


class PlannedTrainer(Trainer):
    """Goes through a plan of micro-batches, each a forget (or training) side and perhaps a retain side."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        plan: Sequence[MicroBatch],
        forget: Sequence[Tokenized],
        retain: Sequence[Tokenized] = (),
        kept: Sequence[Tokenized] = (),
        *,
        schedule: Schedule,
        directory: Path,
        bar: Bar,
        recorder: Recorder | None = None,
        impact: ImpactConfig | None = None,
        supplies: Supplies | None = None,
        gradient: Gradient | None = None,
        dual: Dual | None = None,
        validation: Mapping[str, Sequence[Tokenized]] | None = None,
        dtype: str = "float32",
        memory_remedy: str = "lower --micro-batch-size or --max-seq-length",
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Prepare to train `model` in place.

        Args:
            objective: what a micro-batch minimises.
            plan: the micro-batches, `schedule.accumulate` to a step in each process.
            forget: what `MicroBatch.forget` counts in; the training set when fine-tuning.
            retain: what `MicroBatch.retain` counts in.
            kept: what `MicroBatch.kept` counts in: examples that are to stay where the reference has them. `supplies` has
                their log-probabilities.
            directory: where checkpoints go.
            recorder: the ledger's ear, told every example once a run.
            impact: which tokens it is told of; None: the defaults.
            supplies: what the objective wants beside scores.
            gradient: makes one gradient of those of both sides; None: their sum.
            dual: the multiplier of the retain side, where there is one.
            validation: sets whose losses are measured on the way, by name.
            dtype: what is multiplied in: `float32`, `bfloat16`, `float16`. Trained weights and sums stay in float32.
            memory_remedy: what to say when memory runs out.
        """
        self._sides = {"forget": forget, "retain": retain, "kept": kept}
        self._objective, self._supplies = objective, supplies or Supplies()
        self._gradient, self._dual = gradient, dual
        self._apart: list[Tensor] = []
        self._recording = None
        if recorder is not None:
            whole = self._supplies.layer is None
            self._recording = Recording(model, recorder, impact or ImpactConfig(), whole=whole)
        # By the plan, not by what the ledger holds by now: a resumed run must round as an undisturbed one does.
        own = plan[processes.rank() :: processes.count()]
        self._recorded_whole = {*_firsts(own)} if self._recording is not None and self._supplies.layer is None else set()
        self._pad = tokenizer.pad_token_id
        self._memory_remedy = memory_remedy
        self._numbers: dict[str, float] = {}
        self._validation = dict(validation or {})
        evaluates = bool(self._validation) and schedule.eval_steps > 0
        best = evaluates and schedule.patience is not None
        steps = len(plan) // (schedule.accumulate * processes.count())
        self._use_cache = getattr(model.config, "use_cache", None)
        self._lora_plus_ratio = schedule.lora_plus_ratio
        arguments = TrainingArguments(
            output_dir=str(directory),
            max_steps=steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=schedule.accumulate,
            train_sampling_strategy="sequential",
            learning_rate=schedule.learning_rate,
            adam_beta2=schedule.adam_beta2,
            lr_scheduler_type=schedule.kind,
            lr_scheduler_kwargs=_decay(schedule, steps),
            warmup_steps=schedule.warmup_steps,
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if evaluates else "no",
            eval_steps=schedule.eval_steps if evaluates else None,
            load_best_model_at_end=best,
            metric_for_best_model="loss" if best else None,
            greater_is_better=False if best else None,
            restore_callback_states_from_checkpoint=best,
            save_steps=schedule.eval_steps if best else schedule.checkpoint_steps,
            # Two at least, because the newer one may have been cut off by a kill.
            save_total_limit=max(2, schedule.keep),
            remove_unused_columns=False,
            seed=schedule.seed,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            bf16=dtype == "bfloat16",
            fp16=dtype == "float16",
            ddp_find_unused_parameters=False,
            # They are constants, and to compare them at every pass would keep processes in step that need not be.
            ddp_broadcast_buffers=False,
        )
        if arguments.n_gpu > 1:
            # With several GPUs and no launcher it would cut our micro-batches into pieces, one a GPU.
            arguments._n_gpu = 1
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=list(plan),
            eval_dataset=self._validation or None,
            data_collator=self._collate,
            callbacks=[*callbacks, *([_StopWhenWorse(schedule.patience or 1)] if best else []), _Watch(self, bar)],
        )
        self.remove_callback(_printer())
        # The objective divides by the counts of the whole effective batch itself.
        self.loss_is_scaled_for_ga = True
        self._keep = schedule.keep

    def run(self) -> None:
        """Train, going on from the newest whole checkpoint if there is one.

        Raises:
            ExpungeError: the loss is no longer a number, or the machine ran out of memory.
        """
        with reported_out_of_memory(self._memory_remedy):
            self.train(resume_from_checkpoint=_newest_whole(Path(str(self.args.output_dir))))

    @property
    def trace(self) -> list[dict[str, float]]:
        """The numbers logged, in order of steps: `step`, `loss`, and what the objective and the stopping rule told."""
        kept = ["step", "loss", "forget_objective", "retain_loss", "kept_loss", "constraint", "multiplier"]
        kept += ["forget_loss", "holdout_loss", "eval_retain_loss", "eval_ordinary_perplexity", "learning_rate"]
        kept += [name for name in (f"eval_{name}_loss" for name in self._validation) if name not in kept]
        rows = [{name: row[name] for name in kept if name in row} for row in self.state.log_history]
        return [row for row in rows if len(row) > 1]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; with the two rates of LoRA+ where they differ."""
        if self.optimizer is None and self._lora_plus_ratio != 1:
            from peft.optimizers import create_loraplus_optimizer

            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            trained: Any = self.model if model is None else model
            self.optimizer = create_loraplus_optimizer(trained, kind, loraplus_lr_ratio=self._lora_plus_ratio, **options)
        return super().create_optimizer(model)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """The objective of one micro-batch, in shares of the whole effective batch."""
        assert not return_outputs
        losses = self._losses(model, inputs, num_items_in_batch)
        # Processes average their gradients; the shares are to be summed.
        return (losses.forget + losses.retain) * self.accelerator.num_processes

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch forward and backward, and the ledger told of it."""
        if self._recording is not None:
            self._recording.begin(example for name, side in inputs.items() for example in self._members(name, side))
        if self._gradient is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._step_apart(model, inputs, num_items_in_batch)
        if self._recording is not None:
            self._recording.end()
        return loss

    def _losses(self, model: nn.Module, inputs: Any, counts: Any) -> Losses:
        """The objective of one micro-batch, checked and counted."""
        found = self._run(model, inputs)
        sides: dict[str, Scores] = {}
        for position, (name, side) in enumerate(inputs.items()):
            examples, tokens, other_tokens = (int(count) for count in counts[3 * position : 3 * position + 3])
            scores = self._supplies.scores(name, found[name], side["places"], of_examples=examples, of_tokens=tokens)
            if (other := f"{name} other") in found:
                scores = replace(
                    scores,
                    other=self._supplies.scores(
                        other, found[other], side["places"], of_examples=examples, of_tokens=other_tokens
                    ),
                )
            sides[name] = scores
        if self._dual is not None and "retain" in sides:
            sides["retain"] = replace(sides["retain"], multiplier=self._multiplier())
        losses = self._objective(sides["forget"], sides.get("retain"))
        if "kept" in sides:
            anchor = _anchor(sides["kept"])
            losses = losses._replace(retain=losses.retain + anchor)
            self._count("kept_loss", anchor)
        loss = losses.forget + losses.retain
        if not math.isfinite(loss.item()):
            raise ExpungeError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}", remedy="lower --learning-rate"
            )
        self._count("loss", loss)
        if len(sides) > 1:
            self._count("forget_objective", losses.forget)
            self._count("retain_loss", losses.retain)
        if losses.constraint is not None:
            self._count("constraint", losses.constraint)
        return losses

    def _run(self, model: nn.Module, inputs: Any) -> dict[str, LabelScores | LabelHidden]:
        """Pass a micro-batch through the model: all together where that saves work, else one after the other."""
        batches = {name: side["batch"] for name, side in inputs.items()}
        batches |= {f"{name} other": side["other"] for name, side in inputs.items() if "other" in side}
        if self._supplies.shares and self._of(inputs) not in self._recorded_whole:
            # Two backward passes through one graph would each go through all of it.
            sides = [*inputs] if self._gradient is not None else [""]
            groups = [{name: batch for name, batch in batches.items() if name.startswith(side)} for side in sides]
            return {name: each for group in groups for name, each in self._supplies.run(model, group).items()}
        found: dict[str, LabelScores | LabelHidden] = {}
        for name, batch in batches.items():
            found |= self._supplies.run(model, {name: batch}, whole=True)
            if self._recording is not None and name in inputs and isinstance(labels := found[name], LabelScores):
                self._recording.scored(self._members(name, inputs[name]), labels)
        return found

    def _step_apart(self, model: nn.Module, inputs: Any, counts: Any) -> Tensor:
        """One micro-batch with the gradients of both sides kept apart, and made one when the step is complete."""
        assert self._gradient is not None
        model.train()
        inputs = self._prepare_inputs(inputs)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        with self.accelerator.no_sync(model), self.compute_loss_context_manager():
            losses = self._losses(model, inputs, counts)
            sides = []
            for loss, again in ((losses.retain, True), (losses.forget, False)):
                loss.backward(retain_graph=again)
                sides.append(_taken(trained))
        # Summed over micro-batches, because what is made of the two is not linear in them.
        self._apart = [one + other for one, other in zip(self._apart, sides, strict=True)] if self._apart else sides
        if self.accelerator.sync_gradients:
            retain, forget = (self.accelerator.reduce(side) for side in self._apart)
            self._apart = []
            whole = self._gradient(forget, retain)
            for weight, part in zip(trained, whole.split([weight.numel() for weight in trained]), strict=True):
                weight.grad = part.view_as(weight).clone()
        return (losses.forget + losses.retain).detach()

    def _multiplier(self) -> float:
        """The dual variable of this step: a resumed run finds it in the log."""
        assert self._dual is not None
        known = (row["multiplier"] for row in reversed(self.state.log_history) if "multiplier" in row)
        return float(next(known, self._dual.start))

    def validate(self) -> dict[str, float]:
        """The losses of the validation sets now, nats a token: `eval_NAME_loss` of each, `eval_loss` of all together.

        Every process measures a part and all know the whole.
        """
        return validation_losses(self.model_wrapped, self._validation, pad=self._pad, accelerator=self.accelerator)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """What the Trainer calls when the validation losses are due."""
        metrics = self.validate()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the numbers of both sides beside the Trainer's own, summed over the processes."""
        if "learning_rate" in logs:
            names = sorted(self._numbers)
            shares = torch.tensor([self._numbers[name] for name in names], dtype=torch.float64, device=self.args.device)
            logs = {**logs, **dict(zip(names, self.accelerator.reduce(shares).tolist(), strict=True))}
            self._numbers = {}
            if self._dual is not None:
                logs["multiplier"] = self._dual.update(self._multiplier(), logs["constraint"])
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers' estimate knows neither two sides nor spared heads."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            model: Any = self.accelerator.unwrap_model(self.model)
            # The Trainer has switched it off, and whoever loads whole weights would generate slowly.
            model.config.use_cache = self._use_cache
            save_trained(model, Path(str(output_dir)), state_dict=state_dict)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        # Of each side: examples, labelled tokens, and those of the other answers.
        counts = torch.zeros(3 * len(self._sides), dtype=torch.long, device=device)
        for inputs in batch_samples:
            for position, side in enumerate(inputs.values()):
                counts[3 * position] += len(side["places"])
                counts[3 * position + 1] += _labels(side["batch"])
                counts[3 * position + 2] += _labels(side["other"]) if "other" in side else 0
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts)
        return counts

    def _prepare_inputs(self, inputs: Any) -> Any:
        device = self.args.device
        return {
            name: {
                part: TokenBatch(*(tensor.to(device) for tensor in value)) if isinstance(value, TokenBatch) else value
                for part, value in side.items()
            }
            for name, side in inputs.items()
        }

    def _collate(self, items: list[MicroBatch]) -> dict[str, Any]:
        (micro,) = items
        return {name: dict(self._side(name, places)) for name, places in zip(self._sides, micro, strict=True) if places}

    def _side(self, name: str, places: Sequence[int]) -> Iterator[tuple[str, Any]]:
        yield "places", list(places)
        yield "batch", collate([self._sides[name][place] for place in places], self._pad)
        if f"{name} other" in self._supplies.others:
            yield "other", collate([self._supplies.others[f"{name} other"][place] for place in places], self._pad)

    def drop_checkpoints(self) -> None:
        """Remove all checkpoints but the newest that are to stay."""
        directory = Path(str(self.args.output_dir))
        newest_first = sorted(directory.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
        for checkpoint in newest_first[self._keep :]:
            shutil.rmtree(checkpoint, ignore_errors=True)
        if not any(directory.iterdir()):
            directory.rmdir()

    def _count(self, name: str, share: Tensor) -> None:
        self._numbers[name] = self._numbers.get(name, 0.0) + float(share.detach())

    def _of(self, inputs: Any) -> MicroBatch:
        return MicroBatch(*(tuple(inputs[name]["places"]) if name in inputs else () for name in self._sides))

    def _members(self, name: str, side: Any) -> list[Tokenized]:
        return [self._sides[name][place] for place in side["places"]]


def save_model(trainer: PlannedTrainer, tokenizer: PreTrainedTokenizerBase, run: Path) -> str:
    """Save what was trained as `model` in the run directory, drop the checkpoints, and return its fingerprint.

    All processes call it, the main one writes.

    Raises:
        ExpungeError: the disk is full, and the checkpoints are kept then; or FSDP keeps its weights in pieces.
    """
    with directory_written_atomically(run / "model") if trainer.args.should_save else nullcontext(run / "model") as scratch:
        # By the Trainer, because the pieces of a model that is spread over processes must be gathered by all of them.
        trainer.save_model(str(scratch))
        if trainer.args.should_save:
            if not any(scratch.glob("*.safetensors")):
                raise ExpungeError(
                    "the weights were not gathered", remedy="set fsdp_state_dict_type: FULL_STATE_DICT in accelerate's config"
                )
            tokenizer.save_pretrained(scratch)
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        trainer.drop_checkpoints()
    return model_fingerprint(run / "model")


def _firsts(plan: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
    """The micro-batches in which some example is seen for the first time."""
    seen: set[tuple[int, int]] = set()
    for micro in plan:
        places = {(side, place) for side, places in enumerate(micro) for place in places}
        if not places <= seen:
            yield micro
        seen |= places


def _labels(batch: TokenBatch) -> int:
    return int((batch.labels_BT[:, 1:] != IGNORED).sum())


def _anchor(kept: Scores) -> Tensor:
    """Squared distance from the reference, nats a token: neither better known again nor pushed further away."""
    assert kept.log_p_ref_B is not None
    return kept.mean(((kept.log_p_B - kept.log_p_ref_B) / kept.tokens_B).square())


def _taken(weights: Sequence[nn.Parameter]) -> Tensor:
    """Their gradients in one row, taken from them."""
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    return torch.cat([gradient.flatten() for gradient in gradients])


def _decay(schedule: Schedule, steps: int) -> dict[str, Any]:
    return {"num_decay_steps": max(1, steps // 4)} if schedule.kind == "warmup_stable_decay" else {}


class _Watch(TrainerCallback):
    """Shows progress, flushes the ledger before a checkpoint counts, and marks the checkpoint whole after it is written."""

    def __init__(self, trainer: PlannedTrainer, bar: Bar) -> None:
        self._trainer, self._bar = trainer, bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self._bar.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save and self._trainer._recording is not None:
            self._trainer._recording.flush()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        row = kwargs["logs"]
        if "learning_rate" not in row:
            return
        numbers = {"loss": row["loss"]}
        level = next((row for row in reversed(state.log_history) if "holdout_loss" in row), None)
        if level is not None:
            numbers |= {"forget": level["forget_loss"], "holdout": level["holdout_loss"]}
        self._bar.advance(1, **numbers)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # It is whole when every process has written its part, in the checkpoint and in the ledger.
        self._trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()


class _StopWhenWorse(EarlyStoppingCallback):
    """Also where a run was killed between its early end and the saving of its model."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


def _newest_whole(directory: Path) -> str | None:
    checkpoints = (path.parent for path in directory.glob(f"checkpoint-*/{_WHOLE}"))
    newest = max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
