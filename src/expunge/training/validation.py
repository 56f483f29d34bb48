"""Losses of sets that are not trained on, measured while training goes on.

Not through `expunge.evidence.losses`: here several processes share the work, and a model that is spread over them must be
run by all of them in step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from expunge import processes
from expunge.batching import TokenBatch, Tokenized, batches_by_length, collate
from expunge.evidence import losses, score_labels

if TYPE_CHECKING:
    from torch import Tensor, nn

_MOST_TOKENS = 2048
"""Padded tokens of a batch; there is no backward pass, so it may be larger than one of training."""
_TOGETHER = 1024
"""Those of a batch of `expunge.evidence.losses`."""


def validation_losses(
    model: nn.Module, sets: Mapping[str, Sequence[Tokenized]], *, pad: int, accelerator: Any
) -> dict[str, float]:
    """Mean negative log-likelihood of the labelled tokens of each set, nats a token, ≥ 0; lower is better known.

    Args:
        model: as the trainer runs it, wrapped or not; left in training mode.
        pad: id of the padding token.
        accelerator: accelerate's, which knows the processes.

    Returns:
        `eval_NAME_loss` for each set, and `eval_loss` over the tokens of all; the same in every process.
    """
    model.eval()
    # Rows: sets; columns: nats, tokens.
    sums = torch.zeros(len(sets), 2, dtype=torch.float64, device=accelerator.device)
    with torch.no_grad():
        for row, examples in enumerate(sets.values()):
            batches = batches_by_length([len(example.tokens) for example in examples], most_tokens=_MOST_TOKENS)
            for start in range(0, len(batches), accelerator.num_processes):
                turn = start + accelerator.process_index
                # A process without a batch of its own runs the last one along, and does not count it.
                places = batches[min(turn, len(batches) - 1)].places
                batch = collate([examples[place] for place in places], pad)
                scores = score_labels(model, TokenBatch(*(tensor.to(accelerator.device) for tensor in batch)))
                if turn < len(batches):
                    sums[row, 0] -= scores.log_p_BK.double().sum()
                    sums[row, 1] += scores.labelled_BK.sum()
    model.train()
    sums = accelerator.reduce(sums)
    found = {f"eval_{name}_loss": float(nats / tokens) for name, (nats, tokens) in zip(sets, sums.tolist(), strict=True)}
    nats, tokens = sums.sum(0).tolist()
    return {**found, "eval_loss": nats / tokens}


def shared_losses(model: nn.Module, examples: Sequence[Tokenized], *, pad: int) -> Tensor:
    """`expunge.evidence.losses`, with the work shared by all processes, each of which holds the whole model.

    Returns:
        Shape (examples,), nats a token; the same in every process, and the same as in one.
    """
    if processes.count() == 1:
        found: Tensor = losses(model, examples, pad=pad)
        return found
    from accelerate import PartialState
    from accelerate.utils import reduce

    found = torch.zeros(len(examples), device=PartialState().device)
    # As `losses` makes them, so that an example has the same company however many processes there are.
    for turn, batch in enumerate(batches_by_length([len(example.tokens) for example in examples], most_tokens=_TOGETHER)):
        if turn % processes.count() == processes.rank():
            members = [examples[place] for place in batch.places]
            found[list(batch.places)] = losses(model, members, pad=pad).to(found)
    summed: Tensor = reduce(found, "sum").cpu()
    return summed
