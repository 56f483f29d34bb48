"""Loss: the surprisal of each labelled token, -log p in nats, from the forward pass that trains.

How badly the model knew the token before the step, not what the token did for others. A token that is not labelled (the
prompt, the template) has no loss of its own and counts 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.training.impact import Pass, estimator

if TYPE_CHECKING:
    from torch import Tensor


@estimator("loss")
def loss(heard: Pass) -> Tensor:
    """≥ 0, nats."""
    from torch.nn.functional import pad

    surprisal_BK = -heard.log_p_BK.detach().float()
    # The K positions are the last ones of the batch.
    return pad(surprisal_BK, (heard.longest - surprisal_BK.shape[1], 0))
