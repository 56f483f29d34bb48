"""`expunge audit`, `expunge report` and `expunge metrics`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App

from expunge.commands.show import FLAT, Json, show, show_audit, show_calibration, show_rows, show_run
from expunge.recipes.audit import audit as audit_recipe
from expunge.recipes.audit_config import AuditConfig
from expunge.recipes.calibrate import CalibrateConfig
from expunge.recipes.calibrate import calibrate as calibrate_recipe
from expunge.recipes.report import ReportConfig
from expunge.recipes.report import report as report_recipe

audit = App(name="audit", help_epilogue="")


@audit.default
def _audit(config: Annotated[AuditConfig, FLAT], *, strict: bool = False, json: Json = False) -> int:
    """Ask every model the same questions, once; measure, with intervals; rule on each claim.

    Example: `expunge audit --target target/model --unlearned unlearned/model --retrained retrained/model --forget
    dataset/forget.jsonl --retain dataset/retain.jsonl --holdout dataset/holdout.jsonl --ordinary
    dataset/ordinary_eval.jsonl --output audit`

    Parameters
    ----------
    strict: bool
        Exit with code 1 if any claim fails, so that a pipeline can gate a release on it.
    """
    run = audit_recipe(config)
    if config.dry_run:
        show_run(run, json)
        return 0
    show_audit(run.path, json)
    return int(strict and any(ruling == "fail" for _, _, ruling in run.results["claims"]))


@audit.command(name="calibrate")
def _calibrate(config: Annotated[CalibrateConfig, FLAT] = CalibrateConfig(), *, json: Json = False) -> int:
    """See how far each metric can be believed, on models of which it is known what they saw.

    Small models are taught the facts or others instead, made to forget, taught again and rounded to 4 bits; all are audited.

    Example: `expunge audit calibrate --output runs/calibration`
    """
    run = calibrate_recipe(config)
    if run.finished and not json:
        show_calibration(run.path)
    else:
        show_run(run, json)
    return 0


def report(config: Annotated[ReportConfig, FLAT], *, json: Json = False) -> int:
    """Show an audit as one HTML file that opens offline.

    Example: `expunge report --audit audit --runs target --runs unlearned --output report.html`
    """
    show({"report": str(report_recipe(config))}, json)
    return 0


def metrics(*, json: Json = False) -> int:
    """List what an audit measures.

    Example: `expunge metrics --json`
    """
    from expunge.metrics import METRICS

    rows = []
    for name in METRICS:
        metric = METRICS[name]
        low, high = metric.span
        made_of = [part.value for part in metric.needs] or [
            f"{own} on {set}" for set, each in metric.of.items() for own in each
        ]
        row = {
            "metric": name,
            "on the forget set": f"{metric.better} is better",
            "span": f"{low:g} … {'∞' if high is None else f'{high:g}'}",
            "made of": ", ".join(made_of),
            "asked for": "by name or `all`" if metric.dear else "always",
            "paper": metric.paper,
            "what it is": metric.summary,
        }
        rows.append(row)
    show_rows(rows, json)
    return 0
