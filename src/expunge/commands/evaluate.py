"""`expunge evaluate …`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App
from rich.table import Table

from expunge.commands.show import FLAT, OUT, Json, print_json
from expunge.recipes.evaluate import DIFFERENCES, PLOT, EvaluateTemporalConfig
from expunge.recipes.evaluate import evaluate_temporal as evaluate_recipe
from expunge.runs import Run

evaluate = App(name="evaluate", help="Hold a model, as it ships, to what it was made for.", help_epilogue="")

_MARKS = {"target": "✔", "minimum": "~", "missed": "✘", None: ""}
"""Target reached, minimum reached, neither."""


@evaluate.command(name="temporal")
def _temporal(
    config: Annotated[EvaluateTemporalConfig, FLAT] = EvaluateTemporalConfig(), *, json: Json = False, strict: bool = False
) -> int:
    """Ask a model about events before and after its cutoff: what it answers rightly, declines, gets wrong, and leaks.

    Example: `expunge evaluate temporal --use_lmstudio --lmstudio_model mine --test_file datasets/test/unlearn.jsonl
    --test_file datasets/test/untrained.jsonl` · `expunge evaluate temporal --compare merged/model gguf/model-q4_k_m.gguf`

    Parameters
    ----------
    strict: bool
        Exit with code 1 if any share misses its minimum, so that a pipeline can gate a release on it.
    """
    run = evaluate_recipe(config)
    show_evaluation(run, json)
    main = next(iter(run.results["shares"].values()))
    return int(strict and any(share["ruling"] == "missed" for share in main))


def show_evaluation(run: Run, as_json: bool) -> None:
    """Shares against their targets, then what each set came to."""
    found: dict[str, Any] = run.results
    if as_json:
        print_json({"run": str(run.path), **found, "seconds": run.manifest["seconds"]})
        return
    for model, shares in found["shares"].items():
        table = Table(
            "share", "value", "95% interval", "of", "target", "minimum", "", title=f"{model}, cutoff {found['cutoff']}"
        )
        for each in shares:
            sign = "<" if (each["target"] or 0) < (each["minimum"] or 0) else ">"
            bounds = (f"{sign} {each[name]:.0%}" if each[name] is not None else "" for name in ("target", "minimum"))
            interval = f"{each['low']:.1%} … {each['high']:.1%}"
            mark = _MARKS[each["ruling"]]
            table.add_row(each["name"], f"{each['value']:.1%}", interval, str(each["questions"]), *bounds, mark)
        OUT.print(table)
        sets = Table("set", "side", "questions", "correct", "refused", "wrong")
        for row in found["sets"][model]:
            counts = (f"{row[kind] / row['questions']:.1%}" for kind in ("correct", "refused", "wrong"))
            sets.add_row(row["probe"] or row["set"], row["side"], str(row["questions"]), *counts)
        OUT.print(sets)
    for model, why in found["unasked"].items():
        OUT.print(
            f"! {model} could not be asked {len(why)} questions: {next(iter(why.values()))}", markup=False, soft_wrap=True
        )
    if "differences" in found:
        OUT.print(
            f"{found['differences']} questions dealt with differently: {run.path / DIFFERENCES}", markup=False, soft_wrap=True
        )
    OUT.print(f"{run.path / PLOT}: by distance from the cutoff", markup=False, soft_wrap=True)
