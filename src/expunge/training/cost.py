"""What a fine-tuning will take, before it is begun: about how long, and about how much memory.

A step is reckoned in multiplications, at the rate that this machine multiplies matrices of the model's own sizes now; memory
from the sizes of what is kept. Both are estimates: `benchmarks/finetune_speed.py` puts them beside what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from expunge.batching import Tokenized
    from expunge.models import Shape
    from expunge.training.plan import MicroBatch

_SHARE_OF_PEAK = 0.6
"""Of the rate of plain multiplication, what training reaches: the rest are softmaxes, norms, copies and Python."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PROCESS_BYTES = 0.7e9
"""PyTorch and transformers themselves."""


class Cost(NamedTuple):
    """What a training takes."""

    steps: int
    tokens: int
    """That go through the model, padding and repetitions included."""
    trained_weights: int
    seconds: float
    memory_bytes: float
    """Of the process at its peak, or of the GPU where there is one."""


def training_cost(
    shape: Shape,
    plan: Sequence[MicroBatch],
    examples: Sequence[Tokenized],
    *,
    steps: int,
    rank: int | None,
    dtype: str,
    bits: Literal[4, 8] | None,
    recomputes: bool,
    flops_per_second: float,
) -> Cost:
    """Estimate time and memory of a plan.

    Args:
        rank: of the adapter; None where all weights are trained.
        bits: a weight of the base has, where it is quantised.
        recomputes: activations are computed again instead of kept (gradient checkpointing).
        flops_per_second: see `matmul_rate`.
    """
    padded = [len(micro.forget) * max(len(examples[place].tokens) for place in micro.forget) for micro in plan]
    labelled = [len(micro.forget) * max(examples[place].labels for place in micro.forget) for micro in plan]
    tokens, head = sum(padded), sum(labelled) * shape.vocabulary * shape.hidden
    # Forward, backward through the activations, and through the weights where those are trained; two operations each.
    passes = (2 if rank else 3) + recomputes
    trained = shape.sides * rank if rank else shape.parameters
    flops = 2 * passes * (tokens * shape.linear + head) + (6 * tokens * trained if rank else 0)

    size = _BYTES[dtype]
    base = shape.linear * bits / 8 + (shape.parameters - shape.linear) * size if bits else shape.parameters * size
    # Gradient and Adam's two averages, each float32; an adapter's weights come on top of the base.
    training = trained * (16 if rank else 12) + (0 if rank or dtype == "float32" else shape.parameters * 2)
    # What a layer keeps for the backward pass: its input, its norms', its linear layers', and products between them.
    kept = 2 * shape.hidden * shape.layers if recomputes else 2.2 * shape.sides
    activations = max(padded) * kept * size + max(labelled) * shape.vocabulary * (8 + size)
    return Cost(
        steps=steps,
        tokens=tokens,
        trained_weights=trained,
        seconds=flops / (flops_per_second * _SHARE_OF_PEAK),
        memory_bytes=base + training + activations + _PROCESS_BYTES,
    )


def matmul_rate(hidden: int, *, dtype: str, rows: int = 1024, seconds: float = 0.3) -> float:
    """Operations a second of a matrix product as the model's layers make them: (rows, hidden) times (hidden, 4 · hidden).

    On the GPU if there is one, with the threads that PyTorch has now. The best of several, so that a passing disturbance does
    not count.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left = torch.randn(rows, hidden, device=device, dtype=getattr(torch, dtype))
    right = torch.randn(hidden, 4 * hidden, device=device, dtype=left.dtype)
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        for _ in range(4):
            left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * rows * hidden * 4 * hidden / best
