"""Ways to get forgotten knowledge back: one file each.

An attack is one of three kinds, by what its file registers:

- prompts: a pure function from an example, and others that are no secret, to questions put in other words. The best answer
  to any of them counts.
- versions: changed copies of a model (rounded, trained further), which are then asked the plain question.
- a pair: a decoder that needs two checkpoints at once. It stands apart
  (`extraction.py`), since it attacks a retrained model too.

No number of one model proves anything: prompts and versions are tried on the retrained model too, which never saw the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from expunge.examples import Example
from expunge.registry import Registry


class Prompt(NamedTuple):
    """One way to ask."""

    question: str
    begun: str = ""
    """Words put into the model's mouth, which it goes on from."""
    expected: str | None = None
    """What is then still to be said; None: the whole answer."""


class Version(NamedTuple):
    """A changed copy of a model, made when it is asked and not before."""

    name: str
    make: Callable[[], Any]
    """→ the model, or the path of a GGUF file."""


class Scene(NamedTuple):
    """What an attack on a model's weights may use."""

    model: str
    forget: Sequence[Example]
    others: Sequence[Example]
    """Examples that are no secret."""
    work: Path
    """Where files may be left."""
    max_seq_length: int
    seed: int
    threads: int | None


Prompts = Callable[[Any, Example, Sequence[Example]], list[Prompt]]
Versions = Callable[[Any, Scene], Iterator[Version]]


@dataclass(frozen=True)
class Attack:
    """A registered attack."""

    name: str
    config: type[Any]
    """The frozen dataclass of its settings."""
    source: str
    """Where it was published."""
    prompts: Prompts | None = None
    versions: Versions | None = None

    @property
    def summary(self) -> str:
        """One line: what it does."""
        return (self.config.__doc__ or "").strip().splitlines()[0]

    @property
    def module(self) -> str:
        """The file that it is in."""
        return self.config.__module__


ATTACKS: Registry[Attack] = Registry("attack", __name__)


def prompt_attack(name: str, config: type[Any], *, source: str) -> Callable[[Prompts], Prompts]:
    """Register the function below as an attack by other words: (config, example, others) → prompts."""

    def register(prompts: Prompts) -> Prompts:
        ATTACKS.add(name, Attack(name, config, source, prompts=prompts))
        return prompts

    return register


def version_attack(name: str, config: type[Any], *, source: str) -> Callable[[Versions], Versions]:
    """Register the function below as an attack on the weights: (config, scene) → changed copies of the model."""

    def register(versions: Versions) -> Versions:
        ATTACKS.add(name, Attack(name, config, source, versions=versions))
        return versions

    return register
