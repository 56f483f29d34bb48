"""Ways to get forgotten knowledge back: one file each.

An attack is one of three kinds, by what its file registers:

- prompts: a pure function from an example, and what else is given, to questions put in other words. The best answer to any of
  them counts.
- versions: changed copies of a model (rounded, trained further), which are then asked the plain question.
- a pair: a decoder that needs two checkpoints at once. It stands apart
  (`extraction.py`), since it attacks a retrained model too.

No number of one model proves anything: prompts and versions are tried on the retrained model too, which never saw the answers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from expunge.errors import ExpungeError, suggestion
from expunge.examples import Example
from expunge.registry import Registry

if TYPE_CHECKING:
    from expunge.evidence import EvidenceStore

EXTRACTION = "extraction"
"""The attack on two checkpoints, which is in no registry."""


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


class Given(NamedTuple):
    """What an attacker has beside the model."""

    forget: Sequence[Example]
    """What he asks about."""
    others: Sequence[Example] = ()
    """Questions and answers that are no secret."""
    seed: int = 0
    """Fixes whatever is drawn."""
    kept: EvidenceStore | None = None
    """Where what a helping server says is kept; None: no server may be asked, since nothing is to happen yet."""


class Scene(NamedTuple):
    """What an attack on a model's weights may use."""

    model: str
    given: Given
    work: Path
    """Where files may be left."""
    max_seq_length: int
    threads: int | None


Prompts = Callable[[Any, Example, Given], list[Prompt]]
Versions = Callable[[Any, Scene], Iterator[Version]]
Asks = Callable[[Any, Given], Sequence[Example]]


def _all_of_it(config: Any, given: Given) -> Sequence[Example]:
    return given.forget


@dataclass(frozen=True)
class Attack:
    """A registered attack."""

    name: str
    config: type[Any]
    """The frozen dataclass of its settings."""
    source: str
    """Where it was published."""
    holds: str
    """What the attacker must have."""
    prompts: Prompts | None = None
    versions: Versions | None = None
    asks: Asks = _all_of_it
    """(config, given) → whom it asks about."""

    @property
    def summary(self) -> str:
        """One line: what it does."""
        return (self.config.__doc__ or "").strip().splitlines()[0]

    @property
    def module(self) -> str:
        """The file that it is in."""
        return self.config.__module__


ATTACKS: Registry[Attack] = Registry("attack", __name__)


def prompt_attack(name: str, config: type[Any], *, source: str, holds: str = "") -> Callable[[Prompts], Prompts]:
    """Register the function below as an attack by other words: (config, example, given) → prompts."""

    def register(prompts: Prompts) -> Prompts:
        ATTACKS.add(name, Attack(name, config, source, holds or "a place to ask, and the question", prompts=prompts))
        return prompts

    return register


def version_attack(
    name: str, config: type[Any], *, source: str, holds: str, asks: Asks = _all_of_it
) -> Callable[[Versions], Versions]:
    """Register the function below as an attack on the weights: (config, scene) → changed copies of the model."""

    def register(versions: Versions) -> Versions:
        ATTACKS.add(name, Attack(name, config, source, holds, versions=versions, asks=asks))
        return versions

    return register


def every_attack() -> list[Attack]:
    """All of them by name, the one on two checkpoints too, which has neither prompts nor versions."""
    from expunge.audit.attacks.extraction import Extraction

    pair = Attack(
        EXTRACTION,
        Extraction,
        '"Unlearned but not forgotten", arXiv 2505.24379',
        "the weights from before the deletion, those from after it, and the question",
    )
    return sorted([*(ATTACKS[name] for name in ATTACKS), pair], key=lambda attack: attack.name)


class Chosen(NamedTuple):
    """An attack with its settings, as somebody asked for it."""

    label: str
    """Its name, and the settings that are not the usual ones."""
    attack: Attack
    settings: Any
    by_name: bool = True
    """Not only as one of `all`."""


def chosen(words: Sequence[str]) -> list[Chosen]:
    """The attacks asked for by name, with settings behind it: `quantize:kinds=nf4,fp4`, `relearn:data=half:epochs=3`.

    `all` adds every attack that is not named.

    Raises:
        ExpungeError: there is no such attack or setting, or it cannot have that value.
    """
    known = {attack.name: attack for attack in every_attack()}
    found: dict[str, Chosen] = {}
    for word in words:
        # An address has colons too, but no setting's name behind them.
        name, *given = re.split(r":(?=[a-z_-]+=)", word)
        if name == "all" and not given:
            continue
        if name not in known:
            raise ExpungeError(f'no attack is called "{name}"', remedy=suggestion(name, [*known, "all"]))
        values = dict(pair.split("=", 1) for pair in given)
        label = " ".join([name, *(f"{key}={value}" for key, value in values.items())])
        found[label] = Chosen(label, known[name], _settings(known[name], values))
    if "all" in words:
        named = {one.attack.name for one in found.values()}
        found |= {name: Chosen(name, attack, attack.config(), False) for name, attack in known.items() if name not in named}
    return list(found.values())


def _settings(attack: Attack, given: dict[str, str]) -> Any:
    kinds = get_type_hints(attack.config)
    values = {}
    for key, words in given.items():
        field = key.replace("-", "_")
        if field not in kinds:
            known = [one.name for one in dataclasses.fields(attack.config)]
            raise ExpungeError(f'{attack.name} has no setting "{key}"', remedy=suggestion(field, known))
        try:
            values[field] = _value(kinds[field], words)
        except ValueError as error:
            raise ExpungeError(f"{attack.name}: {key} cannot be {words!r}", remedy=str(error)) from None
    return attack.config(**values)


def _value(kind: Any, words: str) -> Any:
    """The words as a value of a setting's type."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        if words not in parts:
            raise ValueError(f"choose from {', '.join(map(str, parts))}")
        return words
    if get_origin(kind) is tuple:
        return tuple(_value(parts[0], word) for word in words.split(","))
    if get_origin(kind) in (Union, UnionType):
        return _value(next(part for part in parts if part is not type(None)), words)
    if kind is bool:
        raise ValueError("set it with the attack's own command")
    try:
        return kind(words)
    except ValueError:
        raise ValueError("give a whole number" if kind is int else "give a number") from None
