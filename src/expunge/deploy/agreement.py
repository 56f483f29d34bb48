"""How far two versions of one model agree: logits at every position of a few texts.

Shapes: T tokens of a text, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = (
    "The capital of France is",
    "Question: what is seven times eight? Answer:",
    "Tell me about the patient's last visit on 2024-03-20.",
)
"""What versions are compared on: words, a sum, a date."""

QUESTION = "Hello! Who are you?"
"""What each version is asked, to see that it answers at all."""
ANSWER_TOKENS = 24
"""Length of that answer at most."""


class Agreement(NamedTuple):
    """Two versions of a model, compared."""

    max_difference: float
    """Of any logit."""
    argmax_agreement: float
    """Share of positions where both find the same next token likeliest."""


def logits_of(model: Any, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """What a model expects after each token, float32 of shape (T, V) for each sequence."""
    import torch

    with torch.inference_mode():
        return [model(torch.tensor([ids], device=model.device)).logits[0].float().cpu() for ids in sequences]


def compared(before: Sequence[Tensor], after: Sequence[Tensor]) -> Agreement:
    """The largest difference of any logit, and how often the likeliest token is the same."""
    pairs = list(zip(before, after, strict=True))
    same = sum(int((old_TV.argmax(-1) == new_TV.argmax(-1)).sum()) for old_TV, new_TV in pairs)
    return Agreement(
        max_difference=max(float((old_TV - new_TV).abs().max()) for old_TV, new_TV in pairs),
        argmax_agreement=same / sum(len(old_TV) for old_TV, _ in pairs),
    )
