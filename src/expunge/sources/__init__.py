"""Where examples come from: one file each.

A file whose data are split or laid out for unlearning registers itself with `source`, and `expunge prepare` has a command
of its name. It says in one place what it can be told (its config), how its rows are read, and who is forgotten first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from expunge.examples import Example
from expunge.registry import Registry
from expunge.sources.split import Line

Sets = dict[str, list[Example]]


class Material(NamedTuple):
    """What a source makes of its input."""

    line: Line
    """Those to be trained on (or, for an evaluation, to be asked about), in the order in which they are forgotten."""
    sets: Sets
    """Further examples by the name of their set, such as the holdout; checked against the others, and written as
    `<set>.jsonl`."""
    files: Callable[[Sets], dict[str, list[dict[str, Any]]]] = lambda _: {}
    """The rows of further files by name, made of the sets as they are written."""
    counts: dict[str, int] = {}  # noqa: RUF012
    """What was found and what was left out, in numbers."""
    subjects_apart: bool = True
    """Whether a subject belongs to one set alone."""
    trained: bool = True
    """Whether models are trained on it: `forget.jsonl`, `retain.jsonl` and ordinary text are written then. What is for
    evaluation alone has its own sets, and the pairs of the forget ratios are taken from them."""


class Source(NamedTuple):
    """A kind of data that `expunge prepare` knows."""

    name: str
    config: type
    """Its settings, a frozen dataclass."""
    make: Callable[..., Material]
    """Called with the settings, `sample` (the first so many of what it counts in, or None) and `seed`."""
    inputs: tuple[str, ...]
    """The settings that name a file, a directory or a Hub id."""
    summary: str
    example: str
    """Flags of a command that works."""


SOURCES: Registry[Source] = Registry("kind of data", __name__)


def source(
    name: str, config: type, *, example: str, inputs: tuple[str, ...] = ("input",)
) -> Callable[[Callable[..., Material]], Callable[..., Material]]:
    """Register the decorated function as what makes the sets of a kind of data."""

    def register(make: Callable[..., Material]) -> Callable[..., Material]:
        summary = (config.__doc__ or "").strip().splitlines()[0]
        SOURCES.add(name, Source(name, config, make, inputs, summary, example))
        return make

    return register
