from __future__ import annotations

import json

import pytest

import made_audits
from expunge.errors import ExpungeError
from expunge.recipes.report import ReportConfig, report
from expunge.runs import Run


@pytest.fixture
def runs(tmp_path):
    """A finished unlearning run and a finished audit run."""
    with Run.open(tmp_path / "unlearn", "unlearn npo", {"beta": 0.1}, {"forget": "ab"}) as unlearn:
        unlearn.finish({}, stopped="as far as the retrained model")
    with Run.open(tmp_path / "audit", "audit", {"draws": 1000}, {}) as run:
        made_audits.audit().write(run.path / "audit.json")
        run.finish({"audit.json": ""})
    return tmp_path


def test_a_report_shows_the_audit_and_the_runs_named_beside_it(runs, capsys):
    written = report(ReportConfig(audit=runs / "audit", runs=(runs / "unlearn",), output=runs / "out" / "report.html"))
    page = written.read_text("utf-8")
    assert "expunge unlearn npo" in page
    assert "as far as the retrained model" in page
    assert "Maren" in page
    assert str(written) in capsys.readouterr().err


def test_the_audit_may_be_named_by_its_file(runs):
    by_run = report(ReportConfig(audit=runs / "audit", output=runs / "a.html")).read_text("utf-8")
    by_file = report(ReportConfig(audit=runs / "audit" / "audit.json", output=runs / "b.html")).read_text("utf-8")
    assert by_run == by_file


def test_an_audit_file_on_its_own_is_enough(runs, tmp_path):
    alone = tmp_path / "elsewhere" / "audit.json"
    made_audits.audit().write(alone)
    assert "Verdict" in report(ReportConfig(audit=alone, output=tmp_path / "c.html")).read_text("utf-8")


def test_nobody_is_named_when_no_answer_is_to_be_quoted(runs):
    page = report(ReportConfig(audit=runs / "audit", output=runs / "a.html", quoted=0)).read_text("utf-8")
    assert "Maren" not in page


def test_an_unfinished_run_is_refused_and_the_old_report_stays(runs):
    manifest = json.loads((runs / "unlearn" / "manifest.json").read_text())
    (runs / "unlearn" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    (runs / "a.html").write_text("old")
    with pytest.raises(ExpungeError, match="not finished"):
        report(ReportConfig(audit=runs / "audit", runs=(runs / "unlearn",), output=runs / "a.html"))
    assert (runs / "a.html").read_text() == "old"


def test_a_missing_audit_is_named_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ExpungeError, match=r"audit\.json.*run `expunge audit`"):
        report(ReportConfig(audit=tmp_path / "audit.json", output=tmp_path / "a.html"))
