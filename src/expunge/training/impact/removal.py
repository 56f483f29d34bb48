"""Removal: what taking a token out of the text would do to the loss, estimated from the very passes that train.

Two parts are added. What it does to the next token is exact: a model reads from left to right, so without the token its
successor is predicted from the state one place earlier, which the forward pass has computed. What it does to everything
further on is estimated to first order, by |gradient · input embedding|, as in `gradient`.

The first part is most of what removing a single token changes, and most of what `gradient` alone misses: scaling an embedding
towards zero leaves its place in the text, removing it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.training.impact import Part, Pass, estimator
from expunge.training.impact.gradient import gradient

if TYPE_CHECKING:
    from torch import Tensor


def next_token_change(log_p_BK: Tensor, early_BK: Tensor) -> Tensor:
    """|change of the loss of the next token| when a labelled token is removed, shape (B, K), ≥ 0, nats.

    Args:
        log_p_BK: log-probability of each labelled token, nats.
        early_BK: the same as predicted one place earlier, without the token before it.

    Returns:
        At each labelled token what its own removal changes; 0 for the last one, which has no successor.
    """
    from torch.nn.functional import pad

    return pad((log_p_BK[:, 1:] - early_BK[:, 1:]).abs(), (0, 1))


@estimator("removal", hears=(Part.EMBEDDING, Part.EARLY))
def removal(heard: Pass) -> Tensor:
    """≥ 0, in nats of the answer's own negative log-likelihood, whatever the batch and the method.

    A token that is not labelled has the second part alone. The gradient is brought to the answer's own loss as `gradient`
    does it; where the method gives it none, the first part stands alone.
    """
    impact_BT = gradient(heard)
    assert heard.early_BK is not None
    near_BK = next_token_change(heard.log_p_BK.detach().float(), heard.early_BK.float())
    # The K positions are the last ones of the batch.
    impact_BT[:, impact_BT.shape[1] - near_BK.shape[1] :] += near_BK
    return impact_BT
