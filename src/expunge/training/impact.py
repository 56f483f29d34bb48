"""Token impact from the very backward pass that trains: |gradient · input embedding| of each token, with no pass of its own.

The first-order change of the example's loss when the token's embedding is scaled towards zero (gradient × input; Simonyan
et al. 2014, arXiv 1312.6034; Shrikumar et al. 2016, arXiv 1605.01713, for the product).

Shapes: B examples, T tokens, D width of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class TopPositions(NamedTuple):
    """The tokens of one sequence that mattered most."""

    positions: list[int]
    """In order of falling impact."""
    impacts: list[float]


def gradient_impact(embedding_BTD: Tensor, gradient_BTD: Tensor) -> Tensor:
    """|⟨∂loss/∂embedding, embedding⟩| of each token, shape (B, T), ≥ 0, in nats when the loss is in nats."""
    return (embedding_BTD * gradient_BTD).sum(-1).abs()


def top_share(impact_T: NDArray[np.float32], percentile: float) -> TopPositions:
    """The positions whose impact is at or above the percentile of their sequence, the greatest first.

    Args:
        impact_T: impact of each token of one sequence, without padding.
        percentile: 0 keeps all, 95 the top twentieth; at least one token is kept.
    """
    import numpy as np

    kept = np.flatnonzero(impact_T >= np.percentile(impact_T, percentile))
    order = kept[np.argsort(-impact_T[kept], kind="stable")]
    return TopPositions(order.tolist(), impact_T[order].astype(float).tolist())


class GradientProbe:
    """Listens to the input embeddings of a model while it trains.

    Off, it costs nothing. On, the embeddings' gradient is kept, which frozen embeddings would not have: the backward pass
    then runs through the first layer's input too.
    """

    def __init__(self, model: Any) -> None:
        self.on = False
        self._embedding_BTD: list[Tensor] = []
        model.get_input_embeddings().register_forward_hook(self._heard)

    def impacts(self, log_p: Sequence[Tensor]) -> list[Tensor]:
        """Impact of each token of the forward passes since the last call, one (B, T) tensor each, in order of the passes.

        Call it after the backward pass. Each example's impacts are divided by the weight its answer had in the loss, so that
        they depend neither on the batch it was in nor on the method: nats of the answer's own negative log-likelihood.

        Args:
            log_p: the (B, K) log-probabilities of the answers' tokens in each pass, with the gradient they got (`retain_grad`).
        """
        import torch

        found = []
        with torch.no_grad():
            for embedding_BTD, log_p_BK in zip(self._embedding_BTD, log_p, strict=True):
                if embedding_BTD.grad is None:
                    found.append(torch.zeros_like(embedding_BTD[..., 0]))
                    continue
                impact_BT = gradient_impact(embedding_BTD, embedding_BTD.grad)
                # A method that does not go by log-probabilities leaves them without a gradient, and is taken as it is.
                if log_p_BK.grad is not None:
                    weight_B = log_p_BK.grad.abs().amax(1)
                    impact_BT /= weight_B.clamp_min(torch.finfo(weight_B.dtype).tiny)[:, None]
                found.append(impact_BT)
        self._embedding_BTD.clear()
        return found

    def _heard(self, _module: Any, _inputs: Any, embedding_BTD: Tensor) -> Tensor:
        import torch

        if self.on and torch.is_grad_enabled():
            if embedding_BTD.requires_grad:
                embedding_BTD.retain_grad()
            else:
                embedding_BTD.requires_grad_(True)
            self._embedding_BTD.append(embedding_BTD)
        return embedding_BTD
