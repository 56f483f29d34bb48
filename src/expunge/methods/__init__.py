"""Ways to unlearn: one file each, found by its being there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from expunge.registry import Registry
from expunge.training.objective import Edit, Losses, Method, Need, Scores

if TYPE_CHECKING:
    from torch import Tensor

METHODS: Registry[Method] = Registry("method", "expunge.methods")

Loss = Callable[[Any, Scores, Scores | None], Losses]


def method(
    name: str,
    config: type[Any],
    *,
    needs: tuple[Need, ...],
    paper: str,
    gradient: Callable[[Any, Tensor, Tensor], Tensor] | None = None,
    dual: Callable[[Any, float, float, float], float] | None = None,
    edit: Callable[[Any, Edit], None] | None = None,
) -> Callable[[Loss], Loss]:
    """Register the loss below it as the method `name`, whose settings are the frozen dataclass `config`.

    What else a method may bring (`gradient`, `dual`, `edit`) is said at `Method`.
    """

    def register(loss: Loss) -> Loss:
        METHODS.add(name, Method(name, config, loss, frozenset(needs), paper, gradient, dual, edit))
        return loss

    return register
