"""Linear layers by oneDNN where a model is asked on x86 processors; PyTorch multiplies float32 by MKL.

MKL shares a product among threads badly where it has few rows, on an AMD EPYC at least. For answers token by token the
weights are laid out once more as oneDNN likes them. `benchmarks/audit_speed.py` has what both are worth.

Sums are taken in another order than MKL's, so results differ from PyTorch's own in the last digits.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

_SPARE = 3
"""Weights are laid out a second time only if so many times as much memory is free."""


class QuickLinear(nn.Linear):
    """A linear layer whose product oneDNN takes wherever no gradient will be asked for."""

    laid_out: Tensor | None = None
    """The weights once more, as oneDNN likes them; see `weights_laid_out`."""

    def forward(self, input: Tensor) -> Tensor:
        """`nn.Linear`'s own."""
        weight: Tensor = self.weight
        plain = input.dtype == weight.dtype == torch.float32 and input.device.type == weight.device.type == "cpu"
        if torch.is_grad_enabled() or not plain or not input.numel():
            return super().forward(input)
        weight = weight if self.laid_out is None else self.laid_out
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, self.bias, "none", [], "")
        return product


def quicken(model: nn.Module) -> None:
    """Have the plain linear layers of a model take their products by oneDNN, if PyTorch was built with it."""
    for module in model.modules() if available() else ():
        if type(module) is nn.Linear:
            # Its class alone changes: whatever looks for a linear layer, saves or adapts it, finds one.
            module.__class__ = QuickLinear


@contextmanager
def weights_laid_out(model: nn.Module) -> Iterator[None]:
    """For many passes of few rows: the weights of all quick layers a second time, if there is memory to spare.

    The weights must not change inside.
    """
    import psutil

    layers = [module for module in model.modules() if isinstance(module, QuickLinear) and module.laid_out is None]
    layers = [layer for layer in layers if layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"]
    needed = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    if needed * _SPARE > psutil.virtual_memory().available:
        layers = []
    try:
        for layer in layers:
            layer.laid_out = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        yield
    finally:
        for layer in layers:
            layer.laid_out = None


@cache
def available() -> bool:
    """Whether PyTorch has both, and so a choice."""
    by_mkl = torch.backends.mkl.is_available() and platform.machine().lower() in ("x86_64", "amd64")
    return by_mkl and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
