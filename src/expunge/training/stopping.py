"""When to stop unlearning: where the people who were never trained on are, and not one step beyond; or when utility is lost.

A model that finds the forgotten *less* likely than strangers betrays them as surely as one that remembers, so the forget
set's loss is brought to the holdout's and left there. And a model that forgets everything is of no use to anybody, so
unlearning also ends when the retain set or ordinary text is lost; then the weights of the last evaluation before that are
taken. What is saved is therefore always the latest evaluation at which utility still held, or the point on the way to it at
which the holdout's level was met.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import TrainerCallback

from expunge.training.validation import shared_losses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.batching import Tokenized


class Level(NamedTuple):
    """How well a model knows the two sets, nats a token."""

    forget: float
    holdout: float
    """nan where there is no holdout."""

    @property
    def gap(self) -> float:
        """Negative while the forget set is still better known than people never trained on; 0 is the aim."""
        return self.forget - self.holdout


class Utility(NamedTuple):
    """What the model is still good for; nan where it is not measured."""

    retain: float
    """Loss of the retain set, nats a token."""
    ordinary: float
    """Perplexity of ordinary text."""


class Limits(NamedTuple):
    """How much utility may be lost."""

    retain_rise: float
    """Nats a token by which the retain set's loss may rise above the start's."""
    perplexity_factor: float
    """By which the perplexity of ordinary text may grow."""


class StopRule(TrainerCallback):
    """Ends the training as soon as the forget set is no better known than the holdout, exactly there; or utility is lost.

    Between two evaluations the weights may have gone past that point; the place on the straight line between them where
    both losses meet is then found by bisection.
    """

    _BISECTIONS = 5
    _CLOSE_ENOUGH = 0.05

    def __init__(
        self,
        forget: Sequence[Tokenized],
        holdout: Sequence[Tokenized],
        *,
        retain: Sequence[Tokenized] = (),
        ordinary: Sequence[Tokenized] = (),
        limits: Limits = Limits(math.inf, math.inf),  # noqa: B008
        every: int,
        pad: int,
    ) -> None:
        """Compare the losses of `forget` and `holdout` every so many steps; any of the sets but `forget` may be empty."""
        self._forget, self._holdout, self._every, self._pad = forget, holdout, every, pad
        self._retain, self._ordinary, self._limits = retain, ordinary, limits
        self._before: dict[str, Tensor] = {}
        self._before_step = 0
        self.reason = ""
        """Why it ended, in words; as it would be if it ended now."""
        self.level = Level(math.nan, math.nan)
        """As it was measured last."""
        self.noted: list[dict[str, float]] = []
        """Every measurement, as it is in the log."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where the target stands. A resumed run starts at an evaluation, so its weights are those kept then."""
        self.start(kwargs["model"], state)
        if 0 < state.max_steps <= state.global_step:
            # Killed after the last checkpoint: no step will come that could say it.
            last = next(row for row in reversed(state.log_history) if "forget_loss" in row)
            self.reason = _not_reached(state.global_step, Level(last["forget_loss"], last.get("holdout_loss", math.nan)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare, and stop if the level is reached or utility is lost."""
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        model = kwargs["model"]
        reason = self.judge(model, state, f"step {state.global_step}")
        if reason is None:
            self._before, self._before_step = trained_weights(model), state.global_step
            self.reason = _not_reached(state.global_step, self.level)
            return
        self.reason = reason
        control.should_training_stop = True
        # A checkpoint of landed weights would be trained on by a resumed run.
        control.should_save = False

    def start(self, model: nn.Module, state: Any) -> None:
        """Remember these weights, and measure them if they are the target's."""
        self._before, self._before_step = trained_weights(model), state.global_step
        if state.global_step == 0:
            self._note(state, self._level(model), self._utility(model))

    def judge(self, model: nn.Module, state: Any, when: str) -> str | None:
        """Measure and note; land on the holdout's level if it was passed, go back if utility is lost.

        Returns:
            Why to stop, None to go on.
        """
        level, utility = self._level(model), self._utility(model)
        self._note(state, level, utility)
        self.level, reason = level, None
        # Not `level.gap < 0`: without a holdout it is nan.
        if level.gap >= -self._CLOSE_ENOUGH:
            if level.gap > self._CLOSE_ENOUGH:
                level = self._land(model)
                utility = self._utility(model)
                self._note(state, level, utility)
            reason = (
                f"{when}: the forget set's loss ({level.forget:.2f} nats a token) has reached that of people "
                f"never trained on ({level.holdout:.2f})"
            )
        if (lost := self._lost(utility, state)) is None:
            return reason
        set_weights(model, self._before)
        self._note(state, self._level(model), self._utility(model))
        back = f"the weights of step {self._before_step} were taken" if self._before_step else "the model was left as it was"
        return f"{when}: utility is lost, {lost}: {back}; lower --learning-rate, or evaluate more often (--eval-steps)"

    def _lost(self, now: Utility, state: Any) -> str | None:
        first = next(row for row in state.log_history if "forget_loss" in row)
        before = Utility(first.get("eval_retain_loss", math.nan), first.get("eval_ordinary_perplexity", math.nan))
        # So that a loss that is no number counts as lost, and one that is not measured does not.
        if not math.isnan(before.retain) and not now.retain <= before.retain + self._limits.retain_rise:
            return (
                f"the retain set's loss went from {before.retain:.2f} to {now.retain:.2f} nats a token (--max-retain-rise "
                f"{self._limits.retain_rise:g})"
            )
        if not math.isnan(before.ordinary) and not now.ordinary <= before.ordinary * self._limits.perplexity_factor:
            return (
                f"the perplexity of ordinary text went from {before.ordinary:.1f} to {now.ordinary:.1f} "
                f"(--max-perplexity-factor {self._limits.perplexity_factor:g})"
            )
        return None

    def _land(self, model: nn.Module) -> Level:
        after = trained_weights(model)
        low, high = 0.0, 1.0
        for _ in range(self._BISECTIONS):
            middle = (low + high) / 2
            _set_between(model, self._before, after, middle)
            level = self._level(model)
            if abs(level.gap) <= self._CLOSE_ENOUGH:
                break
            low, high = (middle, high) if level.gap < 0 else (low, middle)
        return level

    def _level(self, model: nn.Module) -> Level:
        return Level(self._mean(model, self._forget), self._mean(model, self._holdout))

    def _utility(self, model: nn.Module) -> Utility:
        loss_N = self._losses(model, self._ordinary)
        ordinary = math.nan
        if loss_N is not None:
            tokens_N = torch.tensor([example.labels for example in self._ordinary])
            # exp of more than some hundred nats is no float.
            ordinary = math.exp(min(700.0, float((loss_N.double() * tokens_N).sum() / tokens_N.sum())))
        return Utility(self._mean(model, self._retain), ordinary)

    def _mean(self, model: nn.Module, examples: Sequence[Tokenized]) -> float:
        loss_N = self._losses(model, examples)
        return math.nan if loss_N is None else float(loss_N.mean())

    def _losses(self, model: nn.Module, examples: Sequence[Tokenized]) -> Tensor | None:
        if not examples:
            return None
        model.eval()
        loss_N = shared_losses(model, examples, pad=self._pad)
        model.train()
        return loss_N

    def _note(self, state: Any, level: Level, utility: Utility) -> None:
        row = {
            "forget_loss": level.forget,
            "holdout_loss": level.holdout,
            "eval_retain_loss": utility.retain,
            "eval_ordinary_perplexity": utility.ordinary,
        }
        # Straight into the history: logging in the middle of a step would suppress the step's own log.
        measured = {name: value for name, value in row.items() if not math.isnan(value)}
        self.noted.append({"step": state.global_step, **measured})
        state.log_history.append(self.noted[-1])


def _not_reached(steps: int, level: Level) -> str:
    if math.isnan(level.holdout):
        return f"after {steps} steps: no holdout was given to stop at"
    return (
        f"all {steps} steps were taken, and the forget set (loss {level.forget:.2f} nats a token) is still better known than "
        f"people never trained on ({level.holdout:.2f}): give more --steps, a higher --learning-rate or, if the loss has "
        "flattened (npo), a lower --beta"
    )


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights that are trained, by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model back the weights that `trained_weights` copied."""
    _set_between(model, weights, weights, 0.0)


def _set_between(model: nn.Module, before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in before:
                weight.copy_(torch.lerp(before[name], after[name], share))
