"""Hidden norm: the L2 norm of each token's last hidden state, from the forward pass that trains.

What ledgers of older makes hold. It says how far the model moved the token, not what the token did to the loss: the first
token, on which attention rests when it has nothing to look at, often comes out on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.training.impact import Part, Pass, estimator

if TYPE_CHECKING:
    from torch import Tensor


@estimator("hidden-norm", hears=(Part.HIDDEN,))
def hidden_norm(heard: Pass) -> Tensor:
    """≥ 0; the unit is the model's own."""
    import torch

    assert heard.hidden_BTD is not None
    norm_BT: Tensor = torch.linalg.vector_norm(heard.hidden_BTD.detach().float(), dim=-1)
    return norm_BT
