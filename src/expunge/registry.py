"""A register of things that each live in one file: methods, metrics, sources. Adding a file adds the thing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

from expunge.errors import ExpungeError, suggestion

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind, filled by importing every module of a package once, on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self._package = kind, package
        self._things: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str, thing: T) -> None:
        """Register a thing.

        Raises:
            ValueError: the name is taken; two files must not answer to one name.
        """
        if name in self._things:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._things[name] = thing

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._things:
            raise ExpungeError(f'no {self.kind} is called "{name}"', remedy=suggestion(name, self._things))
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._things))

    def _discover(self) -> None:
        if not self._discovered:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
            self._discovered = True
