"""Progress on standard error: a bar with the time left and the current numbers, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from expunge.processes import is_main

# No emoji: rich would make a picture of line 100 in notes.jsonl:100:
console = Console(stderr=True, highlight=False, emoji=False, quiet=not is_main())
"""Where words for people go; standard output is kept for results."""

_LINE_EVERY_SECONDS = 15.0


def say_stage(number: int, words: str) -> None:
    """A headline between the stages of a long story."""
    console.print(f"[bold]{number}. {words}[/bold]")


class Bar(Protocol):
    """What a long job tells about itself."""

    def advance(self, steps: int = 1, **numbers: float) -> None:
        """So many more steps are done; `numbers` are shown beside the bar."""


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """Show the progress of `total` steps, `done` of which an earlier run has taken."""
    if console.is_terminal:
        columns = (TextColumn("{task.description:<24}", markup=False), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"), console=console
        ) as display:
            yield _RichBar(display, display.add_task(title, total=total, completed=done, numbers=""))
    else:
        yield _Lines(title, total, done)


class _RichBar:
    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int = 1, **numbers: float) -> None:
        if numbers:
            self._display.update(self._task, advance=steps, numbers=_in_words(numbers))
        else:
            self._display.update(self._task, advance=steps)


class _Lines:
    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done, self._skipped = title, total, done, done
        self._start = self._said = time.monotonic()

    def advance(self, steps: int = 1, **numbers: float) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said < _LINE_EVERY_SECONDS and (self._done < self._total or now - self._start < 2):
            return
        self._said = now
        left = (now - self._start) / max(1, self._done - self._skipped) * (self._total - self._done)
        words = f"{self._title}: {self._done}/{self._total}, {now - self._start:.0f} s, {left:.0f} s left {_in_words(numbers)}"
        console.print(words.rstrip(), soft_wrap=True, markup=False)


def _in_words(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
