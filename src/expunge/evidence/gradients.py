"""How hard the model would pull at its weights to learn an answer: the norm of the loss's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expunge.batching import Tokenized, collate
from expunge.evidence.passes import to_device
from expunge.evidence.scoring import score_labels
from expunge.evidence.store import rounded

if TYPE_CHECKING:
    from torch import nn

    from expunge.evidence.store import EvidenceStore
    from expunge.progress import Bar


def record_gradients(model: nn.Module, examples: Sequence[Tokenized], store: EvidenceStore, *, pad: int, bar: Bar) -> None:
    """Record the gradient norm of every example that lacks it: one backward pass each.

    The gradient is of the mean loss of the labelled tokens with respect to every weight.

    Raises:
        ExpungeError: the model gives NaN, or the disk is full.
    """
    import torch

    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        for example in examples:
            if (example.id, "gradient") not in store:
                scores = score_labels(model, to_device(model, collate([example], pad)))
                gradients = torch.autograd.grad(-scores.log_p_BK.sum() / example.labels, weights, allow_unused=True)
                squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
                store.add(example.id, gradient=rounded(torch.stack(squares).sum().sqrt().item()))
            bar.advance(1)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
