"""A condition on the columns of a row, such as `subject == 'Jane Roe' and year in (2023, 2024)`.

It has the syntax of Python, and is interpreted, never executed: names of columns, text, numbers, comparisons, `in`, `and`,
`or`, `not` and brackets are all there is.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from expunge.errors import ExpungeError, suggestion

Condition = Callable[[Mapping[str, Any]], bool]
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ALLOWED = "columns, text, numbers, == != < <= > >= in and or not"


def condition(words: str, columns: Collection[str]) -> Condition:
    """What says of a row whether it fits.

    A column whose name is no word stands in backticks. A number is compared with text that spells a number, as in CSV. What
    is missing (None) is neither smaller nor larger than anything.

    Raises:
        ExpungeError: the condition cannot be read, asks for something else than comparing, or names an unknown column. Two
            things of a row that cannot be compared are refused when that row is asked about.
    """
    escaped = _columns_in_backticks(words, columns)
    try:
        tree = ast.parse(escaped, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _refused(words, "cannot be read") from None
    return _Reader(words, columns).condition(tree.body)


class _Reader:
    def __init__(self, words: str, columns: Collection[str]) -> None:
        self._words, self._columns = words, columns

    def condition(self, node: ast.expr) -> Condition:
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                every = [self.condition(part) for part in parts]
                return lambda row: all(part(row) for part in every)
            case ast.BoolOp(op=ast.Or(), values=parts):
                some = [self.condition(part) for part in parts]
                return lambda row: any(part(row) for part in some)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.condition(operand)
                return lambda row: not inner(row)
            case ast.Compare(left=left, ops=signs, comparators=others):
                values = [self._value(each) for each in (left, *others)]
                if any(type(sign) not in (*_ORDER, ast.In, ast.NotIn) for sign in signs):
                    raise _refused(self._words, "compares in a way that is not known here")
                steps = list(zip(signs, values, values[1:], strict=False))
                return lambda row: all(self._compared(sign, one(row), two(row)) for sign, one, two in steps)
            case _:
                raise _refused(self._words, f'has no comparison in "{ast.unparse(node)}"')

    def _value(self, node: ast.expr) -> Callable[[Mapping[str, Any]], Any]:
        match node:
            case ast.Name(id=name) if name in self._columns:
                return lambda row: row.get(name)
            case ast.Name(id=name) if name.startswith(_MARK):
                column = bytes.fromhex(name.removeprefix(_MARK)).decode()
                return lambda row: row.get(column)
            case ast.Name(id=name):
                remedy = f"{suggestion(name, self._columns)} (text stands in quotes)"
                raise ExpungeError(f'there is no column "{name}"', where=self._words, remedy=remedy)
            case ast.Constant(value=str() | int() | float() | bool() | None as value):
                return lambda _: value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda _: -number
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                items = [self._value(part) for part in parts]
                return lambda row: [item(row) for item in items]
            case _:
                raise _refused(self._words, f'has "{ast.unparse(node)}" in it')

    def _compared(self, sign: ast.cmpop, one: Any, two: Any) -> bool:
        try:
            if isinstance(sign, ast.In | ast.NotIn):
                found = any(_alike(item, one) == _alike(one, item) for item in two) if isinstance(two, list) else one in two
                return found is isinstance(sign, ast.In)
            one, two = _alike(two, one), _alike(one, two)
            if None in (one, two) and not isinstance(sign, ast.Eq | ast.NotEq):
                return False
            return bool(_ORDER[type(sign)](one, two))
        except TypeError:
            what = f"{one!r} and {two!r} cannot be compared in that way"
            raise ExpungeError(what, where=self._words, remedy="check the column's values") from None


def _alike(other: Any, value: Any) -> Any:
    """A text as a number where it is compared with a number and spells one."""
    if isinstance(value, str) and isinstance(other, int | float) and not isinstance(other, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_MARK = "_column_"


def _columns_in_backticks(words: str, columns: Collection[str]) -> str:
    """The condition with `…` as words that Python reads; the name is spelt in hexadecimal digits behind a mark."""
    parts = words.split("`")
    if len(parts) % 2 == 0:
        raise _refused(words, "has a backtick too many")
    for index in range(1, len(parts), 2):
        if parts[index] not in columns:
            what = f'there is no column "{parts[index]}"'
            raise ExpungeError(what, where=words, remedy=suggestion(parts[index], columns))
        parts[index] = _MARK + parts[index].encode().hex()
    return "".join(parts).strip()


def _refused(words: str, what: str) -> ExpungeError:
    return ExpungeError(f"the condition {what}", where=words, remedy=f"use {_ALLOWED}, as in subject == 'Jane Roe'")
