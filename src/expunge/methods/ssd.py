"""Selective synaptic dampening: weights that matter far more to the forget set than to the retain set are made smaller.

Foster et al. 2023, arXiv 2308.07707. How much a weight matters is its mean squared gradient (the diagonal of the empirical
Fisher information). One edit of the weights, no training.

When to use it: as the quickest method where whole weights are unlearned, or an adapter that holds what was learnt. It needs a
model whose weights for the two sets differ, and is blunt.

Shapes: P weights of one matrix, flat or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.methods import method
from expunge.training.objective import Edit, Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ssd:
    """Dampen the weights that matter more to the forget set than to the retain set."""

    selection: float = 10.0
    """A weight is selected if it matters so many times more to the forget set, > 0; lower selects more (the paper's alpha)."""
    dampening: float = 1.0
    """How little a selected weight becomes; lower is smaller (the paper's lambda)."""
    exponent: float = 1.0
    """Of the ratio by which it is made smaller."""
    examples: int = 200
    """Of each set, so many are measured at most."""


def dampened(weight_P: Tensor, forget_P: Tensor, retain_P: Tensor, config: Ssd) -> Tensor:
    """The weights after dampening, of the same shape.

    Args:
        weight_P: the weights.
        forget_P: how much each matters to the forget set, ≥ 0.
        retain_P: to the retain set, ≥ 0.
    """
    import torch

    ratio_P = (config.dampening * retain_P / forget_P.clamp_min(torch.finfo(forget_P.dtype).tiny)).pow(config.exponent)
    return torch.where(forget_P > config.selection * retain_P, weight_P * ratio_P.clamp(max=1), weight_P)


def dampen(config: Ssd, edit: Edit) -> None:
    """Measure both sets, then dampen every weight that is trained."""
    forget, retain = (edit.importance(side, config.examples) for side in ("forget", "retain"))
    for name, weight in edit.weights.items():
        weight.copy_(dampened(weight, forget[name], retain[name], config))


@method("ssd", Ssd, needs=(Need.RETAIN,), paper="Foster et al. 2023, arXiv 2308.07707", edit=dampen)
def loss(config: Ssd, forget: Scores, retain: Scores | None) -> Losses:
    """What is measured of either set: the mean negative log-likelihood of each example's tokens."""
    return Losses(forget=forget.nll, retain=forget.nll.detach() * 0)
