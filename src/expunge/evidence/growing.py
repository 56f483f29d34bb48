"""A past with room to grow: each token read is written into its place, where transformers copies all that came before it.

Imported when it is needed, since it builds upon transformers' own class.

Shapes: B rows, H heads, T tokens, D the width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import LongTensor, Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Tokens of room made at a time: a copy in so many steps is little, and room that is never filled is memory lost."""


class GrowingLayer(DynamicLayer):
    """What one layer remembers; never nothing, unlike its parent."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys_BHTD: Tensor, values_BHTD: Tensor) -> None:
        """Begin with what is remembered so far."""
        # Sets all that the parent's constructor does.
        self.lazy_initialization(keys_BHTD, values_BHTD)
        self.keys, self.values = keys_BHTD, values_BHTD
        self._roomy: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Remember more, (B, H, T, D) each; gives all that is remembered."""
        length = self.keys.shape[2]
        end = length + key_states.shape[2]
        if self._roomy is None or end > self._roomy[0].shape[2]:
            self._roomy = _with_room(self.keys, end + _ROOM), _with_room(self.values, end + _ROOM)
        keys, values = self._roomy
        keys[:, :, length:end], values[:, :, length:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Keep these rows, in this order; see `kept_in_place` for one that copies only what moves."""
        rows = beam_idx.tolist()
        if self._roomy is None or any(row != place and row < len(rows) for place, row in enumerate(rows)):
            super().reorder_cache(beam_idx)
            self._roomy = None
            return
        length = self.keys.shape[2]
        keys, values = (roomy_BHTD[: len(rows)] for roomy_BHTD in self._roomy)
        for place, row in enumerate(rows):
            if row != place:  # beyond what is kept, so nothing kept is overwritten
                keys[place, :, :length], values[place, :, :length] = (roomy_BHTD[row, :, :length] for roomy_BHTD in self._roomy)
        self._roomy = keys, values
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]


def kept_in_place(kept: Sequence[bool]) -> list[int]:
    """The rows to keep, as an order in which few move: the last step into the places of those that go.

    Args:
        kept: of each row, whether it is kept.
    """
    rows = [row for row, stays in enumerate(kept) if stays]
    moved = (row for row in reversed(rows) if row >= len(rows))
    return [row if stays else next(moved) for row, stays in enumerate(kept[: len(rows)])]


def grows(past: Any) -> bool:
    """Whether all of a past has room to grow, so that a row is dropped for the price of a row."""
    return isinstance(past, DynamicCache) and all(isinstance(layer, GrowingLayer) for layer in past.layers)


def growing(past: Any) -> Any:
    """The past of a model, with room to grow where it keeps every token; other ways of keeping it stay as they are."""
    if isinstance(past, DynamicCache):
        past.layers = [_grown(layer) for layer in past.layers]
    return past


def _grown(layer: Any) -> Any:
    # Other layers keep a window, a state or nothing.
    every_token = type(layer) is DynamicLayer and layer.get_seq_length()
    return GrowingLayer(layer.keys, layer.values) if every_token else layer


def _with_room(old_BHTD: Tensor, length: int) -> Tensor:
    rows, heads, read, width = old_BHTD.shape
    new_BHTD = old_BHTD.new_empty((rows, heads, length, width))
    new_BHTD[:, :, :read] = old_BHTD
    return new_BHTD
