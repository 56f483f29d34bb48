"""Gradient: |gradient · input embedding| of each token, from the very backward pass that trains, with no pass of its own.

The first-order change of the example's loss when the token's embedding is scaled towards zero (Simonyan et al. 2014, arXiv
1312.6034; Shrikumar et al. 2016, arXiv 1605.01713, for the product). 0 for the last token, which predicts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.training.impact import Part, Pass, estimator

if TYPE_CHECKING:
    from torch import Tensor


def gradient_impact(embedding_BTD: Tensor, gradient_BTD: Tensor) -> Tensor:
    """|⟨∂loss/∂embedding, embedding⟩| of each token, shape (B, T), ≥ 0, in nats when the loss is in nats."""
    return (embedding_BTD.detach().float() * gradient_BTD.float()).sum(-1).abs()


@estimator("gradient", hears=(Part.EMBEDDING,))
def gradient(heard: Pass) -> Tensor:
    """In nats of the answer's own negative log-likelihood, whatever the batch and the method.

    The gradient is divided by the greatest weight that a token of the answer had in the loss. A loss that weighs an answer's
    tokens differently is thereby measured as it is, with its weights relative to the greatest.
    """
    import torch

    assert heard.embedding_BTD is not None
    gradient_BTD = heard.embedding_BTD.grad
    if gradient_BTD is None:
        return heard.embedding_BTD.new_zeros(heard.embedding_BTD.shape[:2], dtype=torch.float32)
    impact_BT = gradient_impact(heard.embedding_BTD, gradient_BTD)
    # A method that does not go by log-probabilities leaves them without a gradient, and is taken as it is.
    if heard.log_p_BK.grad is None:
        return impact_BT
    weight_B = heard.log_p_BK.grad.float().abs().amax(1)
    return impact_BT / weight_B.clamp_min(torch.finfo(weight_B.dtype).tiny)[:, None]
