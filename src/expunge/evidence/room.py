"""How much goes through a model at once: what fills a few cores leaves a GPU waiting for the next batch."""

from __future__ import annotations

from typing import Any

_SHARE = 16
"""One part in so many of a GPU's memory is what a batch may take beside the model."""
_MOST_TIMES = 16
"""So many times what a processor takes is enough to fill any GPU."""


def memory_for_a_batch(model: Any) -> int | None:
    """Bytes of the GPU that a batch may take; None where the model is on a processor, or there is none as all is known.

    Of the whole memory, not of what is free: who shares a batch must not depend on what else runs there.
    """
    device = next(model.parameters()).device if hasattr(model, "parameters") else None
    if device is None or device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE


def tokens_together(model: Any, most: int) -> int:
    """Padded tokens of a batch, from what is right for a processor: more on a GPU, as its memory allows.

    Args:
        most: tokens of a batch on a processor.
    """
    memory = memory_for_a_batch(model)
    head = model.get_output_embeddings() if memory is not None and hasattr(model, "get_output_embeddings") else None
    if memory is None or head is None:
        return most
    # Of each token and each word: the logit, the same in float32, and its log-probability.
    return max(most, min(most * _MOST_TIMES, memory // (len(head.weight) * 12)))
