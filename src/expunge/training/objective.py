"""What a step minimises: the words between a method, which knows only losses, and the trainer, which knows the rest.

Shapes: B examples of the micro-batch, K positions from its first labelled token on, V the vocabulary, H the hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Need(StrEnum):
    """What a method asks the trainer to supply."""

    REFERENCE = "reference"
    """Log-probabilities of the forget answers under the model as it was before the first step."""
    RETAIN = "retain"
    """A retain batch beside every forget batch."""
    IMPACT = "impact"
    """A weight for each token of the forget answers, from the token impacts in the ledger."""
    LOGITS = "logits"
    """The logits of the forget answers: what the model thinks of every other token too."""
    REFERENCE_LOGITS = "reference logits"
    """The same under the model as it was before the first step."""
    REINFORCED_LOGITS = "reinforced logits"
    """The same under a model that was first trained on the forget set once more."""
    RETAIN_REFERENCE_LOGITS = "retain reference logits"
    """The logits of the retain answers, now and before the first step."""
    REFUSALS = "refusals"
    """Beside every forget answer a refusal of the same question."""
    RETAIN_REFUSALS = "retain refusals"
    """Beside every retain answer a refusal of the same question."""
    ALTERNATIVES = "alternatives"
    """Beside every forget answer another answer to the same question, written by the model itself."""
    HIDDEN = "hidden states"
    """Instead of log-probabilities, the hidden states behind one layer, now and before the first step; the pass ends there."""


@dataclass(frozen=True)
class Scores:
    """One side (forget or retain) of a micro-batch under the model being trained, with gradients.

    Sums are divided by the counts of the *whole* effective batch, so that the loss does not depend on how the batch is
    split into micro-batches or over processes. What the method did not ask for is None.
    """

    log_p_BK: Tensor
    """Log-probability of each labelled token, nats; 0 where there is none."""
    labelled_BK: Tensor
    """Whether there is a label."""
    log_p_ref_B: Tensor | None
    """Summed log-probability of each answer under the frozen reference, nats; with the weights of `weight_BK` where the
    method needs those too."""
    of_examples: int
    """Examples on this side of the whole effective batch."""
    of_tokens: int
    """Labelled tokens on this side of the whole effective batch."""
    weight_BK: Tensor | None = None
    """Weight of each labelled token, ≥ 0, mean 1 over an answer, 0 where there is no label."""
    labels_BK: Tensor | None = None
    """The labelled tokens' ids, -100 where there is no label."""
    logits_BKV: Tensor | None = None
    logits_ref_BKV: Tensor | None = None
    """Under the frozen reference; 0 where there is no label."""
    logits_reinforced_BKV: Tensor | None = None
    """Under the reinforced model; 0 where there is no label."""
    hidden_BKH: Tensor | None = None
    """Hidden states at the labelled tokens themselves, not where they are predicted."""
    hidden_ref_BKH: Tensor | None = None
    """Under the frozen reference; 0 where there is no label."""
    other: Scores | None = None
    """The refusals, or the model's own alternatives, to the same questions."""
    multiplier: float = 1.0
    """The dual variable of a method that has one."""

    @property
    def log_p_B(self) -> Tensor:
        """Summed log-probability of each answer, nats."""
        return self.log_p_BK.sum(1)

    @property
    def tokens_B(self) -> Tensor:
        """How many tokens of each answer are labelled."""
        return self.labelled_BK.sum(1)

    @property
    def nll(self) -> Tensor:
        """This micro-batch's share of the mean negative log-likelihood of the whole batch, nats a token."""
        return -self.log_p_BK.sum() / self.of_tokens

    def mean(self, loss_B: Tensor) -> Tensor:
        """This micro-batch's share of the mean of a per-example loss over the whole batch."""
        return loss_B.sum() / self.of_examples

    def mean_of_tokens(self, loss_BK: Tensor) -> Tensor:
        """This micro-batch's share of the mean of a per-token loss over the whole batch; unlabelled positions are left out."""
        # Not by multiplication: what stands at an unlabelled position may be infinite.
        return loss_BK.masked_fill(~self.labelled_BK, 0).sum() / self.of_tokens


class Losses(NamedTuple):
    """The two sides of a step's loss; their sum is minimised."""

    forget: Tensor
    retain: Tensor
    constraint: Tensor | None = None
    """What a method with a dual variable holds below its limit; as a share, like the others."""


class Method(NamedTuple):
    """A way to unlearn."""

    name: str
    config: type[Any]
    """The frozen dataclass of its settings."""
    loss: Callable[[Any, Scores, Scores | None], Losses]
    """(config, forget side, retain side) → losses."""
    needs: frozenset[Need]
    paper: str
    """Where it was published."""
    gradient: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    """(config, gradient of the forget loss, gradient of the retain loss) → gradient to step along; all of them flat. None: the
    sum."""
    dual: Callable[[Any, float, float, float], float] | None = None
    """(config, multiplier, constraint of the step, its limit) → multiplier of the next step. None: there is no multiplier."""
    edit: Callable[[Any, Edit], None] | None = None
    """Changes the weights once, instead of training. Its `loss` is then what is trained or measured first."""

    @property
    def summary(self) -> str:
        """One line: what it does."""
        return (self.config.__doc__ or "").strip().splitlines()[0]


class Edit(NamedTuple):
    """What a method that changes the weights once is given."""

    weights: dict[str, Tensor]
    """Of the target, to be changed in place: the trained ones alone, by name."""
    reinforce: Callable[[], dict[str, Tensor]]
    """Trains on the forget set and returns what the weights became; `weights` stay those of the target."""
    importance: Callable[[str, int], dict[str, Tensor]]
    """("forget" or "retain", examples at most) → the mean over them of the squared gradient of their loss, by the weight's
    name."""
