"""Errors a user can cause: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from pathlib import Path


class ExpungeError(Exception):
    """A mistake in the input or the surroundings that the user can mend.

    The command line prints it as one line, without a traceback, and exits with code 2.

    Args:
        what: the fact, in the user's words, without a trailing full stop.
        where: the file it was found in.
        line: 1-based line in that file.
        remedy: what to do about it, as an imperative.
    """

    def __init__(
        self, what: str, *, where: Path | str | None = None, line: int | None = None, remedy: str | None = None
    ) -> None:
        self.what, self.where, self.line, self.remedy = what, where, line, remedy
        place = "" if where is None else f"{where}: " if line is None else f"{where}:{line}: "
        super().__init__(" ".join((place + what + (f": {remedy}" if remedy else "")).split()))


def at_least(least: int, **settings: float | None) -> None:
    """Refuse settings too small, or too large, to mean anything; None, for one that was not given, passes.

    Raises:
        ExpungeError: the first that is below `least`, by the name of its flag.
    """
    for name, value in settings.items():
        if value is not None and not least <= value < math.inf:  # So that nan is refused too.
            raise ExpungeError(
                f"--{name.replace('_', '-')} is {value}", remedy="give less" if value == math.inf else f"give at least {least}"
            )


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`did you mean "npo"?` when a known word is close to the wrong one, else the list of known words."""
    known = sorted(known)
    close = difflib.get_close_matches(wrong.lower(), known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"choose from {', '.join(known)}"
