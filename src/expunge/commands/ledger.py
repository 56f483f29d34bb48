"""`expunge ledger …`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from cyclopts import App

from expunge.commands.show import FLAT, MARKS, OUT, Json, plain, print_json, show, show_rows
from expunge.recipes import ledger as ledgers
from expunge.recipes.ledger_find import LedgerFindConfig, find

ledger = App(name="ledger", help="What was trained on, which tokens mattered, what is to be deleted.", help_epilogue="")


@ledger.command(name="status")
def _ledger_status(
    config: Annotated[ledgers.LedgerStatusConfig, FLAT] = ledgers.LedgerStatusConfig(), *, json: Json = False
) -> int:
    """How much is in the ledger, and how far every deletion request has come.

    Example: `expunge ledger status --database ledger.db`
    """
    counts, requests = ledgers.status(config)
    rows = [plain(request) for request in requests]
    if json:
        print_json({**plain(counts), "requests": rows})
        return 0
    show(plain(counts), False)
    if rows:
        show_rows([{"request": row["id"], **{name: _listed(row[name]) for name in _OF_A_REQUEST}} for row in rows], False)
    return 0


_OF_A_REQUEST = ("state", "subjects", "reason", "verdict", "updated_at")


def _listed(value: Any) -> Any:
    """A value of a request as a cell: not more names than a screen has lines for."""
    if isinstance(value, dict):
        return "\n".join(f"{MARKS[item]} {name}" if item in MARKS else f"{name}: {item}" for name, item in value.items())
    if isinstance(value, tuple | list):
        return "\n".join([*value[:5], *([f"and {len(value) - 5} more"] if len(value) > 5 else [])])
    return _brief(value)


@ledger.command(name="request")
def _ledger_request(
    config: Annotated[ledgers.LedgerRequestConfig, FLAT] = ledgers.LedgerRequestConfig(), *, json: Json = False
) -> int:
    """File a deletion request: for people, for entries, or for what is said in certain words.

    Example: `expunge ledger request --database ledger.db --subject "Jane Roe" --reason "asked by letter"`
    """
    filed = plain(ledgers.request(config))
    if config.dry_run and not json:
        show_rows(filed.pop("entries"), False)
    show(filed, json)
    return 0


@ledger.command(name="close")
def _ledger_close(config: Annotated[ledgers.LedgerCloseConfig, FLAT], *, json: Json = False) -> int:
    """Close an audited deletion request. One whose latest audit failed is refused, unless --accept-failed says why.

    Example: `expunge ledger close --database ledger.db --request 1`
    """
    show(plain(ledgers.close(config)), json)
    return 0


@ledger.command(name="find")
def _ledger_find(config: Annotated[LedgerFindConfig, FLAT] = LedgerFindConfig(), *, json: Json = False) -> int:
    """Find the tokens that mattered most, and the training uses behind them.

    Example: `expunge ledger find --database ledger.db --subject "Jane Roe"`
    """
    rows = [plain(token) for token in find(config)]
    # A screen is not wide enough for all of it.
    shown = [name for name in _SHOWN if any(row[name] is not None for row in rows)]
    shown = [name for name in shown if name != "token_id" or "token" not in shown]
    show_rows(rows if json else [{name: _brief(row[name]) for name in shown} for row in rows], json)
    return 0


_SHOWN = ("subject", "token", "token_id", "context", "impact", "source", "run", "recorded", "average_loss")


def _brief(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return f"{value:.4g}" if isinstance(value, float) else value


@ledger.command(name="init")
def _ledger_init(config: Annotated[ledgers.LedgerInitConfig, FLAT] = ledgers.LedgerInitConfig(), *, json: Json = False) -> int:
    """Make an empty ledger, or bring an existing one to the present schema.

    Example: `expunge ledger init --database ledger.db`
    """
    show(plain(ledgers.init(config)), json)
    return 0


@ledger.command(name="validate")
def _ledger_validate(
    config: Annotated[ledgers.LedgerValidateConfig, FLAT] = ledgers.LedgerValidateConfig(), *, json: Json = False
) -> int:
    """Is what the ledger holds whole and consistent? Exits with code 1 if it is not.

    Example: `expunge ledger validate --database ledger.db`
    """
    found = ledgers.validate(config)
    findings = [plain(finding) for finding in found.findings]
    if json:
        print_json({**plain(found), "findings": findings})
    else:
        coverage = "no training use" if found.coverage is None else f"{found.coverage:.1%} of training uses have token impacts"
        show({"ledger": found.place, "sound": "yes" if found.sound else "no", "rows": found.counts}, False)
        show({"coverage": coverage}, False)
        for name, numbers in found.distributions.items():
            show({name: {key: f"{number:.4g}" for key, number in numbers.items()}}, False)
        if findings:
            show_rows(findings, False)
    return int(not found.sound)


@ledger.command(name="repair")
def _ledger_repair(
    config: Annotated[ledgers.LedgerRepairConfig, FLAT] = ledgers.LedgerRepairConfig(), *, json: Json = False
) -> int:
    """Mend a ledger of an older make, or one whose rows contradict each other. A backup is made first.

    Example: `expunge ledger repair --database ledger.db --dry-run`
    """
    done = ledgers.repair(config)
    if json:
        print_json(plain(done))
        return 0
    for step in done.steps or ["nothing to mend"]:
        OUT.print(f"would: {step}" if config.dry_run and done.steps else step, markup=False, soft_wrap=True)
    if done.backup:
        show({"backup": done.backup}, False)
    return 0


@ledger.command(name="export")
def _ledger_export(
    config: Annotated[ledgers.LedgerExportConfig, FLAT] = ledgers.LedgerExportConfig(), *, json: Json = False
) -> int:
    """Write the whole ledger to a JSON-lines file, which `ledger import` reads on any database.

    Example: `expunge ledger export --database ledger.db --output ledger.jsonl`
    """
    show({"rows": ledgers.export(config), "file": str(config.output)}, json)
    return 0


@ledger.command(name="import")
def _ledger_import(config: Annotated[ledgers.LedgerImportConfig, FLAT], *, json: Json = False) -> int:
    """Fill a new ledger from an exported file.

    Example: `expunge ledger import --file ledger.jsonl --database postgresql://user@host/name`
    """
    # Not the database's URL, which may hold a password.
    show({"rows": ledgers.import_(config), "file": str(config.file)}, json)
    return 0


@ledger.command(name="erase")
def _ledger_erase(config: Annotated[ledgers.LedgerEraseConfig, FLAT], *, json: Json = False) -> int:
    """Remove the people of a closed deletion request from the ledger itself, and leave a hashed tombstone.

    Example: `expunge ledger erase --database ledger.db --request 1`
    """
    show(plain(ledgers.erase(config)), json)
    return 0
