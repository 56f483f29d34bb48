"""`expunge demo` and `expunge doctor`: where a newcomer begins."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App

from expunge.commands.evaluate import show_evaluation
from expunge.commands.show import FLAT, Json, plain, show_audit, show_rows
from expunge.recipes.demo import DemoConfig
from expunge.recipes.demo import demo as demo_recipe
from expunge.recipes.demo_temporal import EVALUATION, DemoTemporalConfig
from expunge.recipes.demo_temporal import demo_temporal as demo_temporal_recipe
from expunge.recipes.doctor import doctor as doctor_recipe
from expunge.runs import Run

demo = App(name="demo", help_epilogue="")


@demo.default
def _demo(config: Annotated[DemoConfig, FLAT] = DemoConfig(), *, json: Json = False) -> int:
    """A small model learns patients' notes, receives a deletion request, forgets, is audited, and ships.

    Runs on the embedded model without any network. Interrupt it whenever you like: the same command continues.

    Example: `expunge demo` · `expunge demo --output runs/other --patients 80 --seed 1`
    """
    run = demo_recipe(config)
    show_audit(run.path / "audit-shipped", json, report=str(run.path / "report.html"))
    return 0


@demo.command(name="temporal")
def _temporal(config: Annotated[DemoTemporalConfig, FLAT] = DemoTemporalConfig(), *, json: Json = False) -> int:
    """A small model learns to know nothing from a date on, is quantised and served, and is judged over the API.

    Runs on the embedded model without any network. Interrupt it whenever you like: the same command continues.

    Example: `expunge demo temporal` · `expunge demo temporal --on_this_day events.jsonl --events 600
    --output runs/other`
    """
    run = demo_temporal_recipe(config)
    show_evaluation(Run.read(run.path / EVALUATION), json)
    return 0


def doctor(*, json: Json = False) -> int:
    """What this machine can do, and what is missing, with the command that adds it.

    Example: `expunge doctor --json`
    """
    show_rows([plain(check) for check in doctor_recipe()], json)
    return 0
