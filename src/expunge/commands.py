"""What the commands take and print: each hands one typed config to one recipe, and shows what came back."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from expunge.recipes import ledger as ledgers
from expunge.recipes.audit import AUDIT, AuditConfig
from expunge.recipes.audit import audit as audit_recipe
from expunge.recipes.demo import DemoConfig
from expunge.recipes.demo import demo as demo_recipe
from expunge.recipes.doctor import doctor as doctor_recipe
from expunge.recipes.finetune import FinetuneConfig
from expunge.recipes.finetune import finetune as finetune_recipe
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.gguf import GgufConfig
from expunge.recipes.gguf import gguf as gguf_recipe
from expunge.recipes.merge import MergeConfig
from expunge.recipes.merge import merge as merge_recipe
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.recipes.report import ReportConfig
from expunge.recipes.report import report as report_recipe
from expunge.recipes.unlearn import UnlearnConfig
from expunge.recipes.unlearn import unlearn as unlearn_recipe
from expunge.runs import Run

_SHORT = {"input": "-i", "output": "-o"}
FLAT = Parameter(name="*", short_alias=lambda field, taken: _SHORT.get(field.name))
"""A config whose fields are flags of their own."""
Json = Annotated[bool, Parameter(name="--json", negative=())]
"""Print the result as JSON on standard output."""

_OUT = Console(highlight=False)
_MARKS = {"pass": "✔", "fail": "✘", "not provable": "?"}


def demo(config: Annotated[DemoConfig, FLAT] = DemoConfig(), *, json: Json = False) -> int:
    """A small model learns patients' notes, receives a deletion request, forgets, is audited, and ships.

    Runs on the embedded model without any network. Interrupt it whenever you like: the same command continues.

    Example: `expunge demo` · `expunge demo --output runs/other --patients 80 --seed 1`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    run = demo_recipe(config)
    _show_audit(run.path / "audit-shipped", json, report=str(run.path / "report.html"))
    return 0


generate = App(name="generate", help="Make synthetic data.", help_epilogue="")
prepare = App(
    name="prepare", help="Split data into forget, retain and holdout sets, checked against each other.", help_epilogue=""
)


@generate.command(name="medical")
def _generate_medical(config: Annotated[GenerateMedicalConfig, FLAT], *, json: Json = False) -> int:
    """Write synthetic SOAP notes of people who do not exist, as JSON lines.

    Example: `expunge generate medical --n-record 1000 --output notes.jsonl`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    path = generate_medical(config)
    _show({"file": str(path), "notes": config.n_record}, json)
    return 0


@prepare.command(name="medical")
def _prepare_medical(config: Annotated[PrepareMedicalConfig, FLAT], *, json: Json = False) -> int:
    """Split SOAP notes by person into forget, retain and holdout, and check them for overlap.

    Example: `expunge prepare medical -i notes.jsonl -o dataset --forget-ratio 0.05`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show_run(prepare_medical(config), json)
    return 0


def finetune(config: Annotated[FinetuneConfig, FLAT], *, json: Json = False) -> int:
    """Teach a model examples with LoRA; only answers are learnt, in the model's own chat template.

    Example: `expunge finetune --data-file dataset/forget.jsonl --data-file dataset/retain.jsonl --output target`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show_run(finetune_recipe(config), json)
    return 0


def _unlearn_command(name: str) -> Callable[..., int]:
    def command(config: Any, settings: Any, *, json: bool = False) -> int:
        _show_run(unlearn_recipe(config, name, settings), json)
        return 0

    return command


def _unlearn_app() -> App:
    from expunge.methods import METHODS

    unlearning = App(name="unlearn", help="Make a model forget, and stop where people never trained on are.", help_epilogue="")
    for name in METHODS:
        method = METHODS[name]

        command = _unlearn_command(name)
        command.__doc__ = (
            f"{method.summary}\n\n{method.paper}.\n\nExample: `expunge unlearn {name} --model target/model --forget "
            "forget.jsonl --retain retain.jsonl --holdout holdout.jsonl --output unlearned`\n\n"
            "Parameters\n----------\njson: bool\n    Print the result as JSON on standard output."
        )
        command.__annotations__ = {
            "config": Annotated[UnlearnConfig, FLAT],
            "settings": Annotated[method.config, FLAT],
            "json": Json,
            "return": int,
        }
        command.__defaults__ = (method.config(),)
        unlearning.command(command, name=name)
    return unlearning


unlearn = _unlearn_app()


def audit(config: Annotated[AuditConfig, FLAT], *, strict: bool = False, json: Json = False) -> int:
    """Ask every model the same questions, once; measure, with intervals; rule on each claim.

    Example: `expunge audit --target target/model --unlearned unlearned/model --retrained retrained/model --forget
    dataset/forget.jsonl --retain dataset/retain.jsonl --holdout dataset/holdout.jsonl --ordinary
    dataset/ordinary_eval.jsonl --output audit`

    Parameters
    ----------
    strict: bool
        Exit with code 1 if any claim fails, so that a pipeline can gate a release on it.
    json: bool
        Print the result as JSON on standard output.
    """
    run = audit_recipe(config)
    _show_audit(run.path, json)
    return int(strict and any(ruling == "fail" for _, _, ruling in run.results["claims"]))


def merge(config: Annotated[MergeConfig, FLAT], *, json: Json = False) -> int:
    """Fold an adapter into its base: plain weights that anything can load.

    Example: `expunge merge --lora-path unlearned/model --output-path merged --verify`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show_run(merge_recipe(config), json)
    return 0


def gguf(config: Annotated[GgufConfig, FLAT], *, json: Json = False) -> int:
    """Convert a model to GGUF and quantise it, for llama.cpp and LM Studio; the file is asked before success is claimed.

    Example: `expunge gguf --model-path merged/model --output-path gguf --quant-type f16 --quant-type q4_k_m`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show_run(gguf_recipe(config), json)
    return 0


def report(config: Annotated[ReportConfig, FLAT], *, json: Json = False) -> int:
    """Show an audit as one HTML file that opens offline.

    Example: `expunge report --audit audit --runs target --runs unlearned --output report.html`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show({"report": str(report_recipe(config))}, json)
    return 0


ledger = App(name="ledger", help="What was trained on, which tokens mattered, what is to be deleted.", help_epilogue="")


@ledger.command(name="status")
def _ledger_status(
    config: Annotated[ledgers.LedgerStatusConfig, FLAT] = ledgers.LedgerStatusConfig(), *, json: Json = False
) -> int:
    """How much is in the ledger, and how far every deletion request has come.

    Example: `expunge ledger status --database ledger.db`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    counts, requests = ledgers.status(config)
    _show({**_plain(counts), "requests": [_plain(request) for request in requests]}, json)
    return 0


@ledger.command(name="request")
def _ledger_request(
    config: Annotated[ledgers.LedgerRequestConfig, FLAT] = ledgers.LedgerRequestConfig(), *, json: Json = False
) -> int:
    """File a deletion request.

    Example: `expunge ledger request --database ledger.db --subject "Jane Roe" --reason "asked by letter"`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show(_plain(ledgers.request(config)), json)
    return 0


@ledger.command(name="find")
def _ledger_find(config: Annotated[ledgers.LedgerFindConfig, FLAT] = ledgers.LedgerFindConfig(), *, json: Json = False) -> int:
    """Find the tokens that mattered most, and the training uses behind them.

    Example: `expunge ledger find --database ledger.db --subject "Jane Roe"`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show_rows([_plain(token) for token in ledgers.find(config)], json)
    return 0


@ledger.command(name="init")
def _ledger_init(config: Annotated[ledgers.LedgerInitConfig, FLAT] = ledgers.LedgerInitConfig(), *, json: Json = False) -> int:
    """Make an empty ledger, or bring an existing one to the present schema.

    Example: `expunge ledger init --database ledger.db`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show(_plain(ledgers.init(config)), json)
    return 0


@ledger.command(name="validate")
def _ledger_validate(
    config: Annotated[ledgers.LedgerValidateConfig, FLAT] = ledgers.LedgerValidateConfig(), *, json: Json = False
) -> int:
    """Is what the ledger holds whole and consistent? Exits with code 1 if it is not.

    Example: `expunge ledger validate --database ledger.db`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    found = ledgers.validate(config)
    findings = [_plain(finding) for finding in found.findings]
    if json:
        _print_json({**_plain(found), "findings": findings})
    else:
        _show({"ledger": found.place, "sound": "yes" if found.sound else "no", "rows": found.counts}, False)
        if findings:
            _show_rows(findings, False)
    return int(not found.sound)


@ledger.command(name="repair")
def _ledger_repair(
    config: Annotated[ledgers.LedgerRepairConfig, FLAT] = ledgers.LedgerRepairConfig(), *, json: Json = False
) -> int:
    """Mend a ledger of an older make, or one whose rows contradict each other. A backup is made first.

    Example: `expunge ledger repair --database ledger.db --dry-run`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    done = ledgers.repair(config)
    if json:
        _print_json(_plain(done))
        return 0
    for step in done.steps or ["nothing to mend"]:
        _OUT.print(f"would: {step}" if config.dry_run and done.steps else step, markup=False, soft_wrap=True)
    if done.backup:
        _show({"backup": done.backup}, False)
    return 0


@ledger.command(name="export")
def _ledger_export(
    config: Annotated[ledgers.LedgerExportConfig, FLAT] = ledgers.LedgerExportConfig(), *, json: Json = False
) -> int:
    """Write the whole ledger to a JSON-lines file, which `ledger import` reads on any database.

    Example: `expunge ledger export --database ledger.db --output ledger.jsonl`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show({"rows": ledgers.export(config), "file": str(config.output)}, json)
    return 0


@ledger.command(name="import")
def _ledger_import(config: Annotated[ledgers.LedgerImportConfig, FLAT], *, json: Json = False) -> int:
    """Fill a new ledger from an exported file.

    Example: `expunge ledger import --file ledger.jsonl --database postgresql://user@host/name`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    # Not the database's URL, which may hold a password.
    _show({"rows": ledgers.import_(config), "file": str(config.file)}, json)
    return 0


@ledger.command(name="erase")
def _ledger_erase(config: Annotated[ledgers.LedgerEraseConfig, FLAT], *, json: Json = False) -> int:
    """Remove the people of a closed deletion request from the ledger itself, and leave a hashed tombstone.

    Example: `expunge ledger erase --database ledger.db --request 1`

    Parameters
    ----------
    json: bool
        Print the result as JSON on standard output.
    """
    _show(_plain(ledgers.erase(config)), json)
    return 0


def methods(*, json: Json = False) -> int:
    """List the ways to unlearn.

    Example: `expunge methods --json`

    Parameters
    ----------
    json: bool
        Print the list as JSON on standard output.
    """
    from expunge.methods import METHODS

    found = [METHODS[name] for name in METHODS]
    _show_rows([{"method": method.name, "what it does": method.summary, "paper": method.paper} for method in found], json)
    return 0


def metrics(*, json: Json = False) -> int:
    """List what an audit measures.

    Example: `expunge metrics --json`

    Parameters
    ----------
    json: bool
        Print the list as JSON on standard output.
    """
    from expunge.metrics import METRICS

    rows = []
    for name in METRICS:
        metric = METRICS[name]
        low, high = metric.span
        summary = (metric.measure.__doc__ or "").strip().splitlines()[0]
        span = f"{low:g} … {'∞' if high is None else f'{high:g}'}"
        rows.append({"metric": name, "on the forget set": f"{metric.better} is better", "span": span, "what it is": summary})
    _show_rows(rows, json)
    return 0


def doctor(*, json: Json = False) -> int:
    """What this machine can do, and what is missing, with the command that adds it.

    Example: `expunge doctor --json`

    Parameters
    ----------
    json: bool
        Print the list as JSON on standard output.
    """
    _show_rows([_plain(check) for check in doctor_recipe()], json)
    return 0


def _show_run(run: Run, as_json: bool) -> None:
    results = {name: value for name, value in run.results.items() if name != "trace"}
    _show({"run": str(run.path), **results, "seconds": run.manifest.get("seconds", {})}, as_json)


def _show_audit(path: Path, as_json: bool, **more: str) -> None:
    from expunge.audit.results import Audit

    found = Audit.read(path / AUDIT)
    if as_json:
        _print_json({**more, **dataclasses.asdict(found)})
        return
    roles = [model.role for model in found.models]
    table = Table("metric", "set", *roles, title="mean and 95% interval")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for score in found.scores:
        words = f"{score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]"
        rows.setdefault((score.metric, score.set), {})[score.model] = words
    for (metric, set_), by_role in rows.items():
        table.add_row(metric, set_, *(by_role.get(role, "") for role in roles))
    _OUT.print(table)
    for warning in found.warnings:
        _OUT.print(f"! {warning}", markup=False)
    for claim in found.claims:
        _OUT.print(f"{_MARKS[claim.ruling]} {claim.model} {claim.name}: {claim.ruling}. {claim.reason}", markup=False)
    for name, words in more.items():
        _OUT.print(f"{name}: {words}", markup=False, soft_wrap=True)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(result)
        return
    for name, value in result.items():
        words = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else value
        _OUT.print(f"{name}: {words}", markup=False, soft_wrap=True)


def _show_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    if not rows:
        _OUT.print("nothing found")
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str("" if value is None else value) for value in row.values()))
    _OUT.print(table)


def _print_json(value: Any) -> None:
    jsonlib.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def _plain(value: Any) -> dict[str, Any]:
    return dict(value._asdict()) if hasattr(value, "_asdict") else dataclasses.asdict(value)
