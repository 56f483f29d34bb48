"""Making the most of few cores."""

from __future__ import annotations

import ctypes
import sys

from expunge.processes import threads_to_use

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_cpu(threads: int | None) -> None:
    """Set PyTorch's threads and keep freed activations in the process instead of returning them to the system.

    glibc hands every large block back on free, so each step faults all its pages in again; keeping them makes a LoRA
    step of SmolLM2-135M some 4% faster on two quiet cores, and on busy ones no faster (`benchmarks/step_speed.py`).

    Args:
        threads: how many; None for what `threads_to_use` says.
    """
    import torch

    torch.set_num_threads(threads_to_use(threads))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
