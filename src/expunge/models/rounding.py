"""Weights rounded to what 4 bits can hold, and kept as plain numbers: what a quantised model computes with, loaded by anything.

NF4 (Dettmers et al. 2023, arXiv 2305.14314, appendix E): in blocks of 64 weights along each row, divided by the block's
largest magnitude, the nearest of 16 values that a normal distribution uses equally often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64
_BELOW, _ABOVE = 8, 9
"""Quantiles taken on the side of negative and of positive values; both count 0."""
_OFFSET = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
"""The outermost quantile, before the values are scaled to end at ±1."""


def nf4_values() -> Tensor:
    """The 16 values, ascending from -1 to 1, 0 among them; shape (16,)."""
    import torch

    def side(count: int) -> Tensor:
        quantiles = torch.linspace(_OFFSET, 0.5, count, dtype=torch.float64)[:-1]
        values: Tensor = torch.special.ndtri(quantiles)
        return values

    values = torch.cat([side(_ABOVE), torch.zeros(1, dtype=torch.float64), -side(_BELOW)]).sort().values
    return (values / values.max()).float()


def round_to_4_bits(weight: Tensor) -> Tensor:
    """A weight matrix rounded to NF4, in its own shape and number type.

    Args:
        weight: any shape; the number of its values a multiple of 64, else the last block is shorter.
    """
    import torch
    import torch.nn.functional as F

    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    values = nf4_values().to(weight.device)
    # Between two values the nearer one is taken.
    place = torch.bucketize(blocks / scale.clamp(min=1e-30), (values[1:] + values[:-1]) / 2)
    return (values[place] * scale).flatten()[: flat.numel()].view_as(weight).to(weight.dtype)


def round_layers_to_4_bits(model: Any) -> Any:
    """Round the weights of every linear layer but the output head, in place, and return the model."""
    import torch

    head = model.get_output_embeddings()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer is not head:
                layer.weight.copy_(round_to_4_bits(layer.weight))
    return model
