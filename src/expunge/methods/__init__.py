"""Ways to unlearn: one file each, found by its being there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from expunge.registry import Registry
from expunge.training.objective import Losses, Method, Need, Scores

METHODS: Registry[Method] = Registry("method", "expunge.methods")

Loss = Callable[[Any, Scores, Scores | None], Losses]


def method(name: str, config: type[Any], *, needs: tuple[Need, ...], paper: str) -> Callable[[Loss], Loss]:
    """Register the loss below it as the method `name`, whose settings are the frozen dataclass `config`."""

    def register(loss: Loss) -> Loss:
        METHODS.add(name, Method(name, config, loss, frozenset(needs), paper))
        return loss

    return register
