"""Making the most of few cores."""

from __future__ import annotations

import ctypes
import os
import sys

from expunge.processes import on_this_machine

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_cpu(threads: int | None) -> None:
    """Set PyTorch's threads and keep freed activations in the process instead of returning them to the system.

    glibc hands every large block back on free, so each step faults all its pages in again; keeping them made LoRA steps
    of SmolLM2-135M 9–30% faster on two cores (`benchmarks/step_speed.py`).

    Args:
        threads: how many; None for what OMP_NUM_THREADS says, else one a core that this process may use, shared with the
            processes that train along.
    """
    import torch

    told = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or int(told if told.isdecimal() else 0) or max(1, cores // on_this_machine()))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
