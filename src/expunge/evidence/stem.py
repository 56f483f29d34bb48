"""What all examples of a set begin with, such as the template's system message: read once, and remembered for every batch.

Shapes: B examples of a batch.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

_FEWEST_TOKENS = 8
"""Fewer are not worth the copying."""


class Stem:
    """Tokens at the beginning of every example, as the model remembers them."""

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        """Read the tokens."""
        import torch

        self.length = len(tokens)
        tokens_1T = torch.tensor([list(tokens)], device=next(model.parameters()).device)
        with torch.inference_mode():
            self._past = model(input_ids=tokens_1T, logits_to_keep=1, use_cache=True).past_key_values

    @property
    def usable(self) -> bool:
        """Whether the model keeps its past in the common way, token by token."""
        from transformers import DynamicCache

        return isinstance(self._past, DynamicCache)

    def past(self, rows: int) -> Any:
        """What is remembered, for a batch of so many rows to go on from."""
        import torch

        # Anew for each batch, which adds to it what it reads.
        past = copy.deepcopy(self._past)
        past.reorder_cache(torch.zeros(rows, dtype=torch.long, device=past.layers[0].keys.device))
        return past


def common_stem(model: Any, prefixes: Sequence[Sequence[int]]) -> Stem | None:
    """The stem of prefixes, after which each has at least one token left; None: it is not worth it.

    Args:
        prefixes: the tokens of each example before its labels.
    """
    if len(prefixes) < 2 or not remembers(model):
        return None
    # The first and the last in order differ soonest.
    first, last = min(map(tuple, prefixes)), max(map(tuple, prefixes))
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    length = min(shared, min(map(len, prefixes)) - 1)
    if length < _FEWEST_TOKENS:
        return None
    stem = Stem(model, first[:length])
    return stem if stem.usable else None


def remembers(model: Any) -> bool:
    """Whether the model can go on from what it has read."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"past_key_values", "position_ids", "logits_to_keep"} <= inspect.signature(whole.forward).parameters.keys()


def reads_by_mask(model: Any, longest: int) -> bool:
    """Whether a mask of our own may say which tokens each token of a row sees, in sequences of at most so many tokens."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = getattr(whole, "config", None)
    if config is None or not remembers(model) or getattr(config, "alibi", False):
        return False
    # A window no shorter than the sequence is none. Other ways to attend, and kernels that take no such mask, are left alone.
    layers = DynamicCache(config=config).layers
    known = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    by_mask = getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
    return known and by_mask and all(getattr(layer, "sliding_window", longest) >= longest for layer in layers)
