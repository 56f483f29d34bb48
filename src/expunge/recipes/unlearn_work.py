"""A target and all that a method wants of it, ready to be unlearned: by steps, or by one change of the weights."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from expunge.evidence import label_log_p
from expunge.models import fresh_adapter, load_model, load_tokenizer, prepare_cpu, resolve_base
from expunge.processes import count, rank
from expunge.progress import progress
from expunge.recipes.unlearn_data import UnlearnPlan, UnlearnTokens, other_answers, planned, tokenised
from expunge.training.finetuning import answer_loss
from expunge.training.hidden import Head, kept_before_head, layers_of
from expunge.training.importance import squared_gradients
from expunge.training.memory import reported_out_of_memory
from expunge.training.objective import Edit, Need
from expunge.training.stopping import Limits, StopRule, set_weights, trained_weights
from expunge.training.supplies import Supplies, supply
from expunge.training.trainer import Dual, PlannedTrainer, Schedule
from expunge.training.weighting import label_weights

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.ledger import Recorder
    from expunge.ledger.recorded import RecordedImpacts
    from expunge.recipes.unlearn_config import UnlearnConfig
    from expunge.recipes.unlearn_data import UnlearnData
    from expunge.runs import Run
    from expunge.training.impact import ImpactConfig
    from expunge.training.objective import Method

_MEMORY_REMEDY = (
    "lower --micro-batch-size (what is unlearned stays the same) or --max-seq-length, pass --gradient-checkpointing, "
    "--dtype bfloat16, --use-4bit or --use-8bit, leave out --full, or lower --lora-rank"
)


@dataclass(frozen=True)
class Work:
    """What both ways to unlearn have in common."""

    config: UnlearnConfig
    method: Method
    method_config: Any
    run: Run
    model: Any
    tokenizer: Any
    tokens: UnlearnTokens
    others: dict[str, Any]
    weights: list[Tensor] | None
    layer: int | None
    stop: StopRule

    def trained(self, recorder: Recorder | None, impact: ImpactConfig) -> tuple[PlannedTrainer, str]:
        """By steps down the method's loss: the trainer that took them, and why it stopped."""
        method, config = self.method, self.config
        plan = planned(config, method, self.tokens)
        with self.run.timed("reference"):
            # Once an example, before the first step: the frozen target need not stay in memory or be run again.
            own = plan.micro_batches[rank() :: count()]
            supplies = supply(
                method.needs,
                self.model,
                self.tokens.sides,
                own,
                others=self.others,
                weights=self.weights,
                layer=self.layer,
                shares=config.fast,
                pad=self.pad,
            )
            dual = self._dual()
        if Need.REINFORCED_LOGITS in method.needs:
            with self.run.timed("reinforce"):
                supplies = self._with_reinforced(supplies, {place for micro in own for place in micro.forget})
        with progress(f"Unlearning with {method.name}", config.steps) as bar:
            trainer = PlannedTrainer(
                self.model,
                self.tokenizer,
                partial(method.loss, self.method_config),
                plan.micro_batches,
                self.tokens.forget,
                self.tokens.retain,
                self.tokens.kept,
                schedule=self._schedule(plan),
                directory=self.run.path / "checkpoints",
                bar=bar,
                recorder=recorder,
                impact=impact,
                supplies=supplies,
                gradient=None if method.gradient is None else partial(method.gradient, self.method_config),
                dual=dual,
                dtype=config.dtype,
                memory_remedy=_MEMORY_REMEDY,
                callbacks=[self.stop],
            )
            with self.run.timed("train"):
                trainer.run()
        return trainer, self.stop.reason

    def edited(self) -> tuple[PlannedTrainer, str]:
        """By one change of the weights: a trainer that can save them, and how far it was gone."""
        assert self.method.edit is not None
        start = trained_weights(self.model)
        with self._reinforcing(getattr(self.method_config, "reinforce_steps", 1)) as trainer:
            self.stop.start(self.model, trainer.state)

            def reinforce() -> dict[str, Tensor]:
                trainer.run()
                reinforced = trained_weights(self.model)
                set_weights(self.model, start)
                return reinforced

            def importance(side: str, most: int) -> dict[str, Tensor]:
                examples = _some(self.tokens.sides[side], most, self.config.seed)
                with progress(f"Measuring what matters to {side}", len(examples)) as bar:
                    return squared_gradients(self.model, examples, pad=self.pad, bar=bar)

            with self.run.timed("train"):
                weights = {name: weight.clone() for name, weight in start.items()}
                self.method.edit(self.method_config, Edit(weights, reinforce, importance))
                set_weights(self.model, weights)
            # What was said of the target comes before whatever training was needed.
            trainer.state.log_history = [*self.stop.noted, *trainer.state.log_history]
            reason = self.stop.judge(self.model, trainer.state, "the edit")
        return trainer, reason or f"the edit was made once; the forget set's loss is {self.stop.level.forget:.2f} nats a token"

    @property
    def pad(self) -> int:
        """The padding token."""
        return int(self.tokenizer.pad_token_id)

    def _dual(self) -> Dual | None:
        dual = self.method.dual
        if dual is None:
            return None
        log_p = torch.cat(label_log_p(self.model, self.tokens.retain_sample, pad=self.pad))
        start = -float(log_p.mean())
        return Dual(self.method_config.multiplier, lambda multiplier, value: dual(self.method_config, multiplier, value, start))

    def _with_reinforced(self, supplies: Supplies, places: set[int]) -> Supplies:
        start = trained_weights(self.model)
        with self._reinforcing(self.method_config.reinforce_steps) as trainer:
            trainer.run()
        del trainer
        head = Head.of(self.model)
        kept = kept_before_head(self.model, self.tokens.forget, places, pad=self.pad)
        set_weights(self.model, start)
        # Where processes share the work, what listened to its gradients must be gone before the next one listens.
        gc.collect()
        return replace(supplies, reinforced={"forget": kept}, reinforced_head=head)

    @contextmanager
    def _reinforcing(self, steps: int) -> Iterator[PlannedTrainer]:
        """A trainer of the forget set alone."""
        plan = planned(self.config, self.method, self.tokens, steps=steps)
        with progress("Training on the forget set", steps) as bar:
            yield PlannedTrainer(
                self.model,
                self.tokenizer,
                answer_loss,
                plan.micro_batches,
                self.tokens.forget,
                schedule=self._schedule(plan),
                directory=self.run.path / "reinforced",
                bar=bar,
                dtype=self.config.dtype,
                memory_remedy=_MEMORY_REMEDY,
            )

    def _schedule(self, plan: UnlearnPlan) -> Schedule:
        return Schedule(
            learning_rate=self.config.learning_rate,
            warmup_steps=2,
            kind="constant_with_warmup",
            accumulate=plan.rounds,
            # At an evaluation, so that a resumed run knows the weights it was last compared at.
            checkpoint_steps=4 * self.config.eval_steps,
            seed=self.config.seed,
        )


def prepared(
    config: UnlearnConfig,
    method: Method,
    method_config: Any,
    data: UnlearnData,
    recorded: RecordedImpacts | None,
    run: Run,
) -> Work:
    """Load the target, tokenise the sets, and make what the method wants beside them.

    Raises:
        ExpungeError: the model does not fit in memory, an example has no question where one is needed, or recorded impacts
            belong to other tokens.
    """
    with run.timed("load"), reported_out_of_memory(_MEMORY_REMEDY):
        prepare_cpu(config.threads)
        tokenizer = load_tokenizer(config.model)
        tokens = tokenised(config, data, tokenizer)
        weights = None
        if Need.IMPACT in method.needs:
            for example, read in zip(data.forget, tokens.forget, strict=True):
                if recorded is not None and example.id in recorded.impacts:
                    recorded.impacts[example.id].refuse_other_tokens(read.tokens, example.where)
            weights = label_weights(
                tokens.forget,
                recorded.impacts if recorded is not None else {},
                weights=method_config.weights,
                floor=method_config.weight_floor,
                seed=config.seed,
            )
        model: Any = load_model(config.model, dtype=config.weights_dtype, bits=config.bits, trainable=True)
        if not config.full and resolve_base(config.model) == config.model:
            model = fresh_adapter(model, config.model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    others = other_answers(config, method, method_config, data, model, tokenizer, run.path / "alternatives.jsonl")
    layer = _chosen_layer(method, method_config, model)
    if method.edit is not None:
        _freeze_first_factors(model)
    stop = StopRule(
        tokens.forget,
        tokens.holdout,
        retain=tokens.retain_sample,
        ordinary=tokens.ordinary_sample,
        limits=Limits(config.max_retain_rise, config.max_perplexity_factor),
        every=config.eval_steps,
        pad=int(tokenizer.pad_token_id or 0),
    )
    return Work(config, method, method_config, run, model, tokenizer, tokens, others, weights, layer, stop)


def _chosen_layer(method: Method, method_config: Any, model: Any) -> int | None:
    """The layer whose hidden states the method works on, with it and the two below left as all that is trained."""
    from expunge.errors import ExpungeError

    if Need.HIDDEN not in method.needs:
        return None
    layers = layers_of(model)
    chosen = method_config.layer
    layer = round(len(layers) * 7 / 16) if chosen is None else chosen
    if not 0 <= layer < len(layers):
        raise ExpungeError(f"--layer is {layer}", remedy=f"give one from 0 to {len(layers) - 1}")
    trained = {id(weight) for each in layers[max(0, layer - 2) : layer + 1] for weight in each.parameters()}
    for weight in model.parameters():
        if id(weight) not in trained:
            weight.requires_grad_(False)
    return layer


def _freeze_first_factors(model: Any) -> None:
    """Of an adapter's two factors only the second is changed, so that the change of a layer is linear in it."""
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            weight.requires_grad_(False)


def _some(examples: Sequence[Any], most: int, seed: int) -> list[Any]:
    places = random.Random(f"{seed}/importance").sample(range(len(examples)), min(most, len(examples)))
    return [examples[place] for place in sorted(places)]
