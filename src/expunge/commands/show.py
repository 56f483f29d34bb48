"""How flags become configs, and how results are shown: tables for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from expunge.recipes.audit import AUDIT
from expunge.runs import Run

if TYPE_CHECKING:
    from expunge.audit.results import Audit

_SHORT = {"input": "-i", "output": "-o"}
FLAT = Parameter(name="*", short_alias=lambda field, taken: _SHORT.get(field.name))
"""A config whose fields are flags of their own."""
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print the result as JSON on standard output.")]

OUT = Console(highlight=False, emoji=False)
MARKS = {"pass": "✔", "fail": "✘", "not provable": "?"}


def show_run(run: Run, as_json: bool) -> None:
    """The results of a run, and how long its parts took."""
    results = {name: value for name, value in run.results.items() if name != "trace"}
    found = {"run": str(run.path), **results, "seconds": run.manifest.get("seconds", {})}
    # For people, what is empty (no reasons to refuse, no part that took time) needs no line.
    show(found if as_json else {name: value for name, value in found.items() if value not in ({}, [])}, as_json)


def show_audit(path: Path, as_json: bool, **more: str) -> None:
    """Every score in one table, then what the rules say of each claim."""
    from expunge.audit.results import Audit
    from expunge.audit.verdict import NEEDED

    found = Audit.read(path / AUDIT)
    if as_json:
        print_json({**more, **dataclasses.asdict(found)})
        return
    asked = {*NEEDED, *found.settings.get("metrics", ())}
    roles = [model.role for model in found.models]
    table = Table("metric", "set", *roles, title="mean and 95% interval")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for score in found.scores:
        if score.metric not in asked:
            continue
        words = f"{score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]"
        rows.setdefault((score.metric, score.set), {})[score.model] = words
    for (metric, set_), by_role in rows.items():
        table.add_row(metric, set_, *(by_role.get(role, "") for role in roles))
    OUT.print(table)
    if further := len({score.metric for score in found.scores} - asked):
        OUT.print(f"{further} further metrics stand in {path / AUDIT}", markup=False, soft_wrap=True)
    if found.attacks:
        OUT.print(_attack_table(found))
    for warning in found.warnings:
        OUT.print(f"! {warning}", markup=False)
    for claim in found.claims:
        OUT.print(f"{MARKS[claim.ruling]} {claim.model} {claim.name}: {claim.ruling}. {claim.reason}", markup=False)
    for name, words in more.items():
        OUT.print(f"{name}: {words}", markup=False, soft_wrap=True)


def _attack_table(audit: Audit) -> Table:
    """What each attack got out of each model."""
    from expunge.audit.robust import named

    roles = [model.role for model in audit.models if any(each.model == model.role for each in audit.attacks)]
    table = Table("attack", *roles, title="ROUGE-L recall under attack and 95% interval")
    rows: dict[str, dict[str, str]] = {}
    for each in audit.attacks:
        rows.setdefault(named(each), {})[each.model] = f"{each.value:.3f}  [{each.low:.3f}, {each.high:.3f}]"
    for name, by_role in rows.items():
        table.add_row(name, *(by_role.get(role, "") for role in roles))
    return table


def show_calibration(path: Path) -> None:
    """How far each metric can be believed: a line a metric, the most faithful first."""
    from expunge.audit.calibration import TRUSTED_AUC, read_table
    from expunge.recipes.calibrate import PLOT, TABLE

    table = read_table((path / TABLE).read_text("utf-8"))
    shown = Table("metric", "faithfulness (AUC)", "robust to relearning", "robust to 4 bits", "trusted")
    for row in table:
        robust = ("" if value is None else f"{value:.2f}" for value in (row.relearning, row.quantisation))
        shown.add_row(row.metric, f"{row.auc:.2f}", *robust, "yes" if row.trusted else "")
    OUT.print(shown)
    if table:
        first = table[0]
        words = f"{first.knowing} models that knew, {first.ignorant} that did not, {first.tried} unlearned"
        OUT.print(f"{words}. Trusted from an AUC of {TRUSTED_AUC:g}. {path / PLOT}", markup=False, soft_wrap=True)


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """One result, a line a field."""
    if as_json:
        print_json(result)
        return
    for name, value in result.items():
        words = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else value
        OUT.print(f"{name}: {words}", markup=False, soft_wrap=True)


def show_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Several results of one kind, as a table."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        OUT.print("nothing found")
        return
    table = Table()
    for name in rows[0]:
        # A name cut short cannot be typed again.
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str("" if value is None else value) for value in row.values()))
    OUT.print(table)


def print_json(value: Any) -> None:
    """Print as JSON on standard output."""
    jsonlib.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def printable(words: str) -> str:
    """A model's words for a terminal, which obeys control characters instead of showing them."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in words)


def plain(value: Any) -> dict[str, Any]:
    """A named tuple or dataclass as a dictionary."""
    return dict(value._asdict()) if hasattr(value, "_asdict") else dataclasses.asdict(value)
