"""Negative preference optimisation, and unlikelihood for the tokens it does not reach: forgetting spread over the answer.

`npo` (Zhang et al. 2024, arXiv 2404.05868) and gradient ascent move a token's logit by 1 − p: next to nothing where the token
is known by heart, and most where it is forgotten already. So a few tokens sink far below what a stranger's have, which gives
the forgotten away (Min-K%), while most are still the model's first choice (exact memorisation). Unlikelihood (Welleck et al.
2019, arXiv 1908.04319, eq. 4), −log(1 − p), moves it by p, the other way round: on its own it leaves no first choice standing
and no token unlikely, which gives them away as well. A share of each lands between, where strangers are.

When to use it: where an answer was learnt by heart and `npo` leaves exact memorisation behind.

Shapes: B examples in the batch, K positions from its first labelled token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.methods import method
from expunge.methods.npo import npo_loss
from expunge.training.objective import Losses, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BalancedNpo:
    """NPO on whole answers and unlikelihood on their tokens, so that all of an answer is forgotten and none of it too far."""

    beta: float = 0.02
    """Inverse temperature of NPO, > 0; the smaller, the closer to plain gradient ascent. The push fades once an answer is some
    1 / beta nats less likely."""
    unlikelihood: float = 0.25
    """Share of unlikelihood in the forget loss, 0 (NPO alone) to 1; less leaves first choices, more leaves too many likely."""
    retain_weight: float = 4.0
    """Weight of the retain loss (nats an answer, as the forget loss is) beside the forget loss."""


def unlikelihood(log_p_BK: Tensor) -> Tensor:
    """−log(1 − p) of each token, shape (B, K), nats, ≥ 0; lower is more forgotten.

    Args:
        log_p_BK: log-probability of each labelled token, nats; 0 where there is none, which the caller leaves out.
    """
    import torch

    # A hair less than certain: at p = 1 the loss is infinite. A clamp would leave such tokens without a gradient.
    return -torch.log(-torch.expm1(log_p_BK - 1e-6))


@method(
    "balanced-npo",
    BalancedNpo,
    needs=(Need.REFERENCE, Need.RETAIN),
    paper="Zhang et al. 2024, arXiv 2404.05868, with Welleck et al. 2019, arXiv 1908.04319",
)
def loss(config: BalancedNpo, forget: Scores, retain: Scores | None) -> Losses:
    """A share of each on the forget side, negative log-likelihood on the retain side, all in nats an answer."""
    if not 0 <= config.unlikelihood <= 1:
        raise ExpungeError(f"--unlikelihood {config.unlikelihood} is no share", remedy="give a number from 0 to 1")
    assert forget.log_p_ref_B is not None
    assert retain is not None
    npo_B = npo_loss(forget.log_p_B, forget.log_p_ref_B, config.beta)
    unlikelihood_B = (unlikelihood(forget.log_p_BK) * forget.labelled_BK).sum(1)
    return Losses(
        forget=forget.mean((1 - config.unlikelihood) * npo_B + config.unlikelihood * unlikelihood_B),
        retain=config.retain_weight * retain.mean(-retain.log_p_B),
    )
