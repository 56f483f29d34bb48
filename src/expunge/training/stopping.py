"""When to stop unlearning: where the people who were never trained on are, and not one step beyond.

A model that finds the forgotten *less* likely than strangers betrays them as surely as one that remembers, so the forget
set's loss is brought to the holdout's and left there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import TrainerCallback

from expunge.evidence import mean_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.batching import Tokenized


class Level(NamedTuple):
    """How well a model knows the two sets, nats a token."""

    forget: float
    holdout: float

    @property
    def gap(self) -> float:
        """Negative while the forget set is still better known than people never trained on; 0 is the aim."""
        return self.forget - self.holdout


class StopAtHoldout(TrainerCallback):
    """Ends the training as soon as the forget set is no better known than the holdout, exactly there.

    Between two evaluations the weights may have gone past that point; the place on the straight line between them where
    both losses meet is then found by bisection.
    """

    _BISECTIONS = 5
    _CLOSE_ENOUGH = 0.05

    def __init__(self, forget: Sequence[Tokenized], holdout: Sequence[Tokenized], *, every: int, pad: int) -> None:
        """Compare the losses of `forget` and `holdout` every so many steps."""
        self._forget, self._holdout, self._every, self._pad = forget, holdout, every, pad
        self._before: dict[str, Tensor] = {}
        self.reason = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where the target stands. A resumed run starts at an evaluation, so its weights are those kept then."""
        model = kwargs["model"]
        self._before = _trainable(model)
        if state.global_step == 0:
            self._note(self._level(model), state)
        elif state.global_step >= state.max_steps:
            # Killed after the last checkpoint: no step will come that could say it.
            last = next(row for row in reversed(state.log_history) if "holdout_loss" in row)
            self.reason = _not_reached(state.global_step, Level(last["forget_loss"], last["holdout_loss"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare, and stop if the level is reached."""
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        model = kwargs["model"]
        level = self._level(model)
        self._note(level, state)
        if level.gap < -self._CLOSE_ENOUGH:
            self._before = _trainable(model)
            self.reason = _not_reached(state.global_step, level)
            return
        landed = level
        if level.gap > self._CLOSE_ENOUGH:
            landed = self._land(model)
            self._note(landed, state)
        self.reason = (
            f"step {state.global_step}: the forget set's loss ({landed.forget:.2f} nats a token) has reached that of people "
            f"never trained on ({landed.holdout:.2f})"
        )
        control.should_training_stop = True
        # A checkpoint of landed weights would be trained on by a resumed run.
        control.should_save = False

    def _land(self, model: nn.Module) -> Level:
        after = _trainable(model)
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
        model.eval()
        level = Level(*(mean_loss(model, examples, pad=self._pad) for examples in (self._forget, self._holdout)))
        model.train()
        return level

    def _note(self, level: Level, state: Any) -> None:
        # Straight into the history: logging in the middle of a step would suppress the step's own log.
        state.log_history.append({"step": state.global_step, "forget_loss": level.forget, "holdout_loss": level.holdout})


def _not_reached(steps: int, level: Level) -> str:
    return (
        f"all {steps} steps were taken, and the forget set (loss {level.forget:.2f} nats a token) is still better known than "
        f"people never trained on ({level.holdout:.2f}): give more --steps, a higher --learning-rate or, if the loss has "
        "flattened (npo), a lower --beta"
    )


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def _set_between(model: nn.Module, before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in before:
                weight.copy_(torch.lerp(before[name], after[name], share))
