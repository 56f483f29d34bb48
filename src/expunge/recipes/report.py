"""`expunge report`: one HTML file that shows an audit and how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.audit.results import Audit
from expunge.files import written_atomically
from expunge.progress import console
from expunge.runs import MANIFEST, Run


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Show an audit as one HTML file that opens offline."""

    audit: Path
    """The audit's run directory, or its audit.json."""
    runs: tuple[Path, ...] = ()
    """Run directories of the stages before and after it, whose settings, hashes and timings are shown too."""
    output: Path = Path("report.html")
    """The HTML file to write."""
    title: str = "Did the model forget?"
    """The heading of the page."""
    quoted: int = 60
    """How many questions to quote with all answers; 0 quotes nobody, for a report that leaves the house."""


def report(config: ReportConfig) -> Path:
    """Write the report and say where it is.

    Returns:
        The file written.

    Raises:
        ExpungeError: there is no audit or no finished run where one was named, or the file cannot be written.
    """
    from expunge.report import render

    audit_file, audit_run = config.audit, config.audit.parent
    if config.audit.is_dir():
        audit_file, audit_run = Run.read(config.audit).path / "audit.json", config.audit
    audit = Audit.read(audit_file)
    runs = [Run.read(path) for path in config.runs]
    if (audit_run / MANIFEST).exists() and audit_run.resolve() not in {run.path.resolve() for run in runs}:
        runs.append(Run.read(audit_run))
    html = render(audit, _by_stage(runs), title=config.title, quoted=config.quoted)
    with written_atomically(config.output) as stream:
        stream.write(html)
    console.print(f"report: {config.output}", soft_wrap=True, markup=False)
    return config.output


def _by_stage(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Manifests by the name of their directory, in the order the runs were started; a second of one name gets a number."""
    stages: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: str(run.manifest.get("started", ""))):
        name, count = run.path.resolve().name, 2
        while name in stages:
            name, count = f"{run.path.resolve().name} {count}", count + 1
        stages[name] = run.manifest
    return stages
