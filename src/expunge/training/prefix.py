"""The beginning that all sequences of a batch share is run once: chat templates give every question the same one.

The rest of each sequence attends to the keys and values of the shared part, through which the gradients of all of them flow
back. What comes out is the same up to rounding; what is saved is the shared part's share of all tokens, less one row.

Shapes: B examples, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_LEAST = 8
"""Fewer shared tokens are not worth a pass of their own."""


class SharedPrefix:
    """A causal language model, called as the scoring kernel calls it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: Tensor, use_cache: bool) -> Any:
        """The model's own output for the positions in `logits_to_keep`, which ascend."""
        # The first position that is asked for must be in what is not shared.
        shared = min(_shared(input_ids), int(logits_to_keep[0]))
        if shared < _LEAST or len(input_ids) < 2:
            return self._model(
                input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, use_cache=use_cache
            )
        cache = self._model(input_ids=input_ids[:1, :shared], logits_to_keep=1, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(input_ids))
        return self._model(
            input_ids=input_ids[:, shared:],
            attention_mask=attention_mask,
            past_key_values=cache,
            logits_to_keep=logits_to_keep - shared,
            use_cache=True,
        )


def _shared(input_ids_BT: Tensor) -> int:
    """How many tokens from the first on are the same in every row."""
    same_T = (input_ids_BT == input_ids_BT[:1]).all(0)
    return int(same_T.long().cumprod(0).sum())
