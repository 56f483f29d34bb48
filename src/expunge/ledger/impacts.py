"""Token impacts as the ledger takes them: which tokens of a sequence mattered, and how much."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from expunge.errors import ExpungeError

_WINDOW_NAMES = ("context", "context_window")
_LARGEST = sys.float_info.max
_REMEDY = 'give {"top_tokens": [...], "total_tokens": n}'


class TopToken(NamedTuple):
    """One token that mattered. Positions count from 0 in the whole sequence, special tokens included."""

    token_id: int
    position: int
    impact: float
    """Greater is more; the unit is the estimator's."""
    context_start: int
    """First position of the window around it."""
    context_end: int
    """One past the last position of the window: start ≤ position < end ≤ total_tokens."""


@dataclass(frozen=True, slots=True)
class TokenImpact:
    """The tokens of one training use that mattered most."""

    total_tokens: int
    """Tokens in the whole sequence."""
    top_tokens: Sequence[TopToken]
    """Any order; at most one a position."""

    @classmethod
    def parse(cls, value: TokenImpact | Mapping[str, Any] | Sequence[Any], *, entry: str, labelled: int = 0) -> TokenImpact:
        """The token impact in any form the ledger takes, checked.

        Args:
            value: a `TokenImpact`; `{"top_tokens": [...], "total_tokens": n}`; or, as older programs gave it, the list of
                top tokens alone. A top token is a `TopToken` or an object with its fields, the window perhaps as one pair
                under `context` or `context_window`, or none (then it is the token itself).
            entry: the entry it belongs to, for messages.
            labelled: number of labelled tokens: a lower bound on the length of the sequence where the list form names none.

        Raises:
            ExpungeError: another form, a field that is unknown, missing or no number, or a position outside the sequence.
        """
        if isinstance(value, TokenImpact):
            found = value
        elif isinstance(value, Mapping):
            for name in value:
                if name not in ("top_tokens", "total_tokens"):
                    raise _error(entry, f'unknown field "{name}"')
            for name in ("top_tokens", "total_tokens"):
                if name not in value:
                    raise _error(entry, f'field "{name}" is missing')
            if not isinstance(value["top_tokens"], Sequence) or isinstance(value["top_tokens"], str):
                raise _error(entry, f'field "top_tokens" must be a list, not {type(value["top_tokens"]).__name__}')
            total = _whole(value["total_tokens"], "total_tokens", entry)
            found = cls(total, [_top_token(item, entry) for item in value["top_tokens"]])
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            tokens = [_top_token(item, entry) for item in value]
            found = cls(max((max(token.context_end, token.position + 1) for token in tokens), default=labelled), tokens)
            found = cls(max(found.total_tokens, labelled), tokens)
        else:
            raise _error(entry, f"it must be an object or a list, not {type(value).__name__}")
        found.check(entry)
        return found

    def check(self, entry: str) -> None:
        """Refuse positions and windows that cannot be.

        Raises:
            ExpungeError: the first that is wrong.
        """
        total = self.total_tokens
        for token in self.top_tokens:
            # All in one look: this is done for every token of every example.
            _, position, impact, start, end = token
            if 0 <= start <= position < end <= total and -_LARGEST <= impact <= _LARGEST:
                continue
            if not 0 <= token.context_start <= token.position < token.context_end <= total:
                raise _error(
                    entry,
                    f"position {token.position} with context {token.context_start} to {token.context_end} does not fit in "
                    f"{total} tokens",
                    "keep 0 ≤ context_start ≤ position < context_end ≤ total_tokens",
                )
            raise _error(entry, f"the impact at position {token.position} is {token.impact}", "leave this token out")

    def refuse_other_tokens(self, tokens: Sequence[int], where: str) -> None:
        """Refuse a sequence that is not the one these impacts were recorded on; its end may have been cut off then.

        Args:
            tokens: the example as it is tokenised now.
            where: the example, for messages.

        Raises:
            ExpungeError: it is shorter, or another token stands at a recorded position.
        """
        wrong = f"has {len(tokens)} tokens, {self.total_tokens} when it was recorded" if len(tokens) < self.total_tokens else ""
        for token in self.top_tokens:
            if not wrong and tokens[token.position] != token.token_id:
                wrong = f"token {tokens[token.position]} stands at position {token.position}, {token.token_id} was recorded"
        if wrong:
            raise ExpungeError(
                f"the recorded token impacts do not fit this example ({wrong})",
                where=where,
                remedy="give the model (its tokenizer and template) and the --max-seq-length that it was trained with",
            )


def _top_token(item: Any, entry: str) -> TopToken:
    if isinstance(item, TopToken):
        return item
    if not isinstance(item, Mapping):
        raise _error(entry, f"a top token must be an object, not {type(item).__name__}")
    for name in item:
        if name not in TopToken._fields and name not in _WINDOW_NAMES:
            raise _error(entry, f'unknown field "{name}" of a top token', f"a top token has {', '.join(TopToken._fields)}")
    for name in ("token_id", "position", "impact"):
        if name not in item:
            raise _error(entry, f'field "{name}" of a top token is missing', "add it")
    position = _whole(item["position"], "position", entry)
    window: Iterable[Any] = next((item[name] for name in _WINDOW_NAMES if name in item), (position, position + 1))
    try:
        start, end = window
    except (TypeError, ValueError):
        raise _error(entry, f"the context window {window!r} is no pair", "give [start, end]") from None
    impact = item["impact"]
    if isinstance(impact, bool) or not isinstance(impact, int | float):
        raise _error(entry, f'field "impact" must be a number, not {type(impact).__name__}', "mend it")
    return TopToken(
        token_id=_whole(item["token_id"], "token_id", entry),
        position=position,
        impact=float(impact),
        context_start=_whole(item.get("context_start", start), "context_start", entry),
        context_end=_whole(item.get("context_end", end), "context_end", entry),
    )


def _whole(value: Any, name: str, entry: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _error(entry, f'field "{name}" must be a whole number, not {type(value).__name__}', "mend it")
    return value


def _error(entry: str, what: str, remedy: str = _REMEDY) -> ExpungeError:
    return ExpungeError(f"the token impact of entry {entry} is refused: {what}", remedy=remedy)
