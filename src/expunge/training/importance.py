"""How much each weight matters to a set: the diagonal of the empirical Fisher information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from expunge import processes
from expunge.batching import TokenBatch, Tokenized, collate
from expunge.evidence import score_labels

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.progress import Bar


def squared_gradients(model: Any, examples: Sequence[Tokenized], *, pad: int, bar: Bar) -> dict[str, Tensor]:
    """Mean over examples of the squared gradient of each one's loss (nats a token), by the trained weight's name.

    One example at a time: the square of a mean is not the mean of squares. Several processes share the examples.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    found = {name: torch.zeros_like(weight) for name, weight in trained.items()}
    for turn, example in enumerate(examples):
        if turn % processes.count() == processes.rank():
            batch = TokenBatch(*(tensor.to(model.device) for tensor in collate([example], pad)))
            loss = -score_labels(model, batch).log_p_BK.sum() / example.labels
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    found[name] += gradient.square() / len(examples)
        bar.advance(1)
    if processes.count() > 1:
        from accelerate.utils import reduce

        found = {name: reduce(each, "sum") for name, each in found.items()}
    return found
