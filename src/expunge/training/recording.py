"""What training writes in the ledger: each example's first use in a run, its losses, and the tokens that mattered.

By example, never by place in a batch; once an example and run; with nothing measured for examples that are known already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from expunge.ledger import Recorder, TokenImpact, TopToken
from expunge.training.impact import ESTIMATORS, Estimator, ImpactConfig, Part, Pass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from expunge.batching import Tokenized
    from expunge.evidence import LabelScores


class TopPositions(NamedTuple):
    """The tokens of one sequence that mattered most."""

    positions: list[int]
    """In order of falling impact."""
    impacts: list[float]


def top_share(impact_T: NDArray[np.float32], percentile: float) -> TopPositions:
    """The positions whose impact is at or above the percentile of their sequence, the greatest first.

    A token without any impact is not kept, unless there is no other.

    Args:
        impact_T: impact of each token of one sequence, without padding.
        percentile: 0 keeps all that have any, 95 the top twentieth; at least one token is kept.
    """
    return _greatest_first(impact_T, np.flatnonzero(impact_T >= np.percentile(impact_T, percentile)))


def top_k(impact_T: NDArray[np.float32], k: int) -> TopPositions:
    """The k positions of greatest impact, the greatest first; the earlier of two equal ones.

    A token without any impact is not kept, unless there is no other.
    """
    return _greatest_first(impact_T, np.argsort(-impact_T, kind="stable")[:k])


def _greatest_first(impact_T: NDArray[np.float32], kept: NDArray[np.intp]) -> TopPositions:
    order = kept[np.argsort(-impact_T[kept], kind="stable")]
    # Where most tokens count 0, as unlabelled ones do by their loss, the percentile is 0 too and would keep them all.
    order = order[impact_T[order] != 0] if impact_T.any() else order[:1]
    return TopPositions(order.tolist(), impact_T[order].astype(float).tolist())


class Heard(NamedTuple):
    """What the model said in a forward pass, beside the log-probabilities; None what was not asked for."""

    embedding_BTD: Tensor | None
    hidden_BTD: Tensor | None
    logits_BKV: Tensor | None
    """At the places that predict the labelled tokens."""

    def told_of(self, model: nn.Module, examples: Sequence[Tokenized], wanted_B: Sequence[bool], log_p_BK: Tensor) -> Pass:
        """The pass as an estimator may know it: without the logits, of which only a number a token is kept."""
        early_BK = None
        if self.logits_BKV is not None:
            early_BK = early_log_p(self.logits_BKV, log_p_BK.detach(), examples)
        return Pass(model, examples, wanted_B, log_p_BK, self.embedding_BTD, self.hidden_BTD, early_BK)


def early_log_p(logits_BKV: Tensor, log_p_BK: Tensor, examples: Sequence[Tokenized]) -> Tensor:
    """Log-probability of each labelled token as predicted one place earlier, nats; see `Pass.early_BK`.

    Costs no softmax: the difference of two tokens' logits is that of their log-probabilities, and one of these is known.
    """
    early_BK = log_p_BK.clone()
    # A label at position t is predicted at t - 1, and the places are the last but one of the longest example.
    first = max(len(example.tokens) for example in examples) - log_p_BK.shape[1]
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.tokens[example.start :], device=logits_BKV.device)
        start, count = example.start - first, len(tokens)
        at_K = torch.arange(start, start + count - 1, device=logits_BKV.device)
        gained_K = logits_BKV[row, at_K, tokens[1:]].float() - logits_BKV[row, at_K, tokens[:-1]].float()
        early_BK[row, start + 1 : start + count] = log_p_BK[row, start : start + count - 1] + gained_K
    return early_BK


class Probe:
    """Listens to a model while it trains, for what an estimator needs. Off, it costs nothing."""

    def __init__(self, model: Any, hears: Iterable[Part]) -> None:
        self.on = False
        self._embedding_BTD: Tensor | None = None
        self._hidden_BTD: Tensor | None = None
        self._logits_BKV: Tensor | None = None
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        if Part.EMBEDDING in hears:
            model.get_input_embeddings().register_forward_hook(self._embedded)
        if Part.HIDDEN in hears:
            # transformers' name for everything below the output head.
            whole.base_model.register_forward_hook(self._passed)
        if Part.EARLY in hears:
            whole.register_forward_hook(self._predicted)

    def heard(self) -> Heard:
        """What the forward pass before this call said; each only once."""
        heard = Heard(self._embedding_BTD, self._hidden_BTD, self._logits_BKV)
        self._embedding_BTD = self._hidden_BTD = self._logits_BKV = None
        return heard

    def _embedded(self, _module: Any, _inputs: Any, embedding_BTD: Tensor) -> None:
        if self.on and torch.is_grad_enabled():
            if embedding_BTD.requires_grad:
                embedding_BTD.retain_grad()
            else:
                # Frozen embeddings have no gradient of their own: the backward pass now runs through the first layer's input.
                embedding_BTD.requires_grad_(True)
            self._embedding_BTD = embedding_BTD

    def _passed(self, _module: Any, _inputs: Any, output: Any) -> None:
        if self.on and torch.is_grad_enabled():
            self._hidden_BTD = output.last_hidden_state.detach()

    def _predicted(self, _module: Any, _inputs: Any, output: Any) -> None:
        if self.on and torch.is_grad_enabled():
            self._logits_BKV = output.logits.detach()


class Recording:
    """Goes along with a trainer: `begin` before a step's forward passes, `scored` after each, `end` after the backward pass."""

    def __init__(self, model: nn.Module, recorder: Recorder, config: ImpactConfig, *, whole: bool = True) -> None:
        """Listen to `model`, tell `recorder`.

        Args:
            whole: whether passes go on to log-probabilities. Without them an example's use is told, but no losses or impacts.
        """
        self._model, self._recorder, self._config, self._whole = model, recorder, config, whole
        self._estimator: Estimator = ESTIMATORS[config.impact]
        self._probe = Probe(model, self._estimator.hears if whole else ())
        self._passes: list[Pass] = []
        self._used: list[str] = []

    def begin(self, examples: Iterable[Tokenized]) -> None:
        """Listen if one of these examples is new to the run."""
        self._passes.clear()
        self._used = [example.id for example in examples if example.id not in self._recorder]
        self._probe.on = self._whole and bool(self._used)

    def scored(self, examples: Sequence[Tokenized], labels: LabelScores) -> None:
        """Keep what a forward pass gave, until the backward pass is done."""
        if self._probe.on:
            labels.log_p_BK.retain_grad()
            wanted_B = [example.id not in self._recorder for example in examples]
            self._passes.append(self._probe.heard().told_of(self._model, examples, wanted_B, labels.log_p_BK))

    def end(self) -> None:
        """Tell the ledger of the new examples."""
        for heard in self._passes:
            with torch.no_grad():
                impact_BT = self._estimator.measure(heard).float().cpu().numpy()
                loss_BK = -heard.log_p_BK.float().cpu()
            for row, example in enumerate(heard.examples):
                if heard.wanted_B[row]:
                    first = loss_BK.shape[1] - impact_BT.shape[1]
                    # By the labels' places: a token that is certain has log-probability 0 too.
                    losses = loss_BK[row, example.start + first : len(example.tokens) + first].tolist()
                    impact = self._kept(example, impact_BT[row, : len(example.tokens)])
                    self._recorder.mark_used_in_training(example.id, losses=losses, token_impact=impact)
        for name in () if self._whole else self._used:
            self._recorder.mark_used_in_training(name)
        self._passes.clear()
        self._probe.on = False

    def flush(self) -> None:
        """Write to the ledger what is still in memory."""
        self._recorder.flush()

    def _kept(self, example: Tokenized, impact_T: NDArray[np.float32]) -> TokenImpact:
        config, total = self._config, len(example.tokens)
        if config.impact_top_k is None:
            top = top_share(impact_T, config.impact_percentile)
        else:
            top = top_k(impact_T, config.impact_top_k)
        return TokenImpact(
            total,
            [
                TopToken(
                    token_id=example.tokens[position],
                    position=position,
                    impact=impact,
                    context_start=max(0, position - config.impact_context),
                    context_end=min(total, position + config.impact_context + 1),
                )
                for position, impact in zip(top.positions, top.impacts, strict=True)
            ],
        )
