"""How much each token of a forget answer counts, by the token impacts that the ledger recorded.

Shapes: T tokens of an example, K of them labelled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from expunge.batching import Tokenized
    from expunge.ledger import TokenImpact

Weights = Literal["recorded", "random", "uniform"]
"""As recorded; the same numbers shuffled among the labelled tokens of their example; or all 1. The last two are controls."""


def impact_weights(impact: TokenImpact, *, start: int, tokens: int, floor: float) -> NDArray[np.float32]:
    """Weights of the labelled tokens of one example, in proportion to their recorded impact, with mean 1.

    The impact of the token at position t weighs the loss of predicting that very token, from position t - 1. Impacts of
    unlabelled tokens (the prompt's) weigh nothing: those are not predicted.

    Args:
        impact: what was recorded; only the tokens that mattered most are. A negative impact counts as none.
        start: position of the first labelled token.
        tokens: T.
        floor: what a token that is not among the recorded ones weighs, as a share of the least of those, ≥ 0. It mattered
            less than any of them; by how much was not recorded.

    Returns:
        Shape (K,), ≥ 0. All 1 where no labelled token would weigh anything.
    """
    import numpy as np

    recorded = {token.position: max(0.0, token.impact) for token in impact.top_tokens}
    least = min((value for value in recorded.values() if value > 0), default=0.0)
    weight_T = np.full(tokens, floor * least, dtype=np.float64)
    for position, value in recorded.items():
        weight_T[position] = value
    weight_K = weight_T[start:]
    mean = weight_K.mean()
    return (weight_K / mean if mean > 0 else np.ones_like(weight_K)).astype(np.float32)


def label_weights(
    examples: Sequence[Tokenized], recorded: Mapping[str, TokenImpact], *, weights: Weights, floor: float, seed: int
) -> list[Tensor]:
    """Weights of the labelled tokens of each example, one tensor of shape (K,) with mean 1 an example.

    Args:
        recorded: by `Tokenized.id`; an example that is not in it is weighted evenly.
        weights: see `Weights`.
        floor: see `impact_weights`.
        seed: fixes the shuffling.
    """
    import torch

    found = []
    for example in examples:
        impact = recorded.get(example.id)
        if impact is None or weights == "uniform":
            found.append(torch.ones(example.labels))
            continue
        weight_K = impact_weights(impact, start=example.start, tokens=len(example.tokens), floor=floor).tolist()
        if weights == "random":
            random.Random(f"{seed}/{example.id}").shuffle(weight_K)
        found.append(torch.tensor(weight_K))
    return found
