"""A calibration of tiny models, from the notes to the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_models
from expunge.audit.calibration import read_table
from expunge.errors import ExpungeError
from expunge.recipes.calibrate import PLOT, TABLE, CalibrateConfig, calibrate
from tiny_people import kill_when

SETTINGS = {"people": 2, "learning_rates": (5e-3,), "epochs": (1, 2), "methods": ("grad-diff",), "threads": 1}
CALIBRATE_IN_A_PROCESS = """
import sys
from pathlib import Path
from expunge.recipes.calibrate import CalibrateConfig, calibrate
calibrate(CalibrateConfig(model=sys.argv[1], output=Path(sys.argv[2]), people=2, learning_rates=(5e-3,), epochs=(1, 2),
    methods=("grad-diff",), threads=1))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("base") / "model", hidden=128)


def test_a_calibration_killed_midway_goes_on_and_ends_with_the_table_and_the_picture(base, tmp_path):
    output = tmp_path / "calibration"
    first = output / "audits" / "with-0.005-0-1" / "audit.json"
    kill_when(CALIBRATE_IN_A_PROCESS, base, output, ready=first.exists, seconds=120)
    audited = first.stat().st_mtime_ns

    run = calibrate(CalibrateConfig(model=str(base), output=output, **SETTINGS))
    assert run.finished
    assert first.stat().st_mtime_ns == audited
    pools = ("with-0.005-0-1", "with-0.005-0-2", "without-0.005-0-1", "without-0.005-0-2")
    around = ("retrained-relearned", "grad-diff", "grad-diff-relearned", "grad-diff-4-bit")
    assert {path.parent.name for path in output.glob("audits/*/audit.json")} == {*pools, *around}
    table = read_table((output / TABLE).read_text("utf-8"))
    assert {row.metric for row in table} >= {"probability", "loss-auc", "extraction-strength", "rouge-l-recall", "truth-ratio"}
    # The last of those without the facts is what the others are held against.
    assert {(row.knowing, row.ignorant, row.tried) for row in table} == {(2, 1, 1)}
    assert all(0 <= row.auc <= 1 for row in table)
    assert all(value is None or 0 <= value <= 1 for row in table for value in (row.relearning, row.quantisation))
    assert run.results["metrics"] == [json.loads(line) for line in (output / TABLE).read_text("utf-8").splitlines()]
    picture = (output / PLOT).read_text("utf-8")
    assert picture.startswith("<svg")
    assert all(f">{row.metric}<" in picture for row in table)
    assert not (output / "models").exists()

    written = (output / TABLE).stat().st_mtime_ns
    assert calibrate(CalibrateConfig(model=str(base), output=output, **SETTINGS)).finished
    assert (output / TABLE).stat().st_mtime_ns == written


def test_a_dry_run_says_how_many_models_and_how_long_and_writes_nothing(base, tmp_path):
    run = calibrate(CalibrateConfig(model=str(base), output=tmp_path / "new", dry_run=True, **SETTINGS))
    assert run.results["models"] == 8
    assert run.results["about seconds"] >= 0
    assert not (tmp_path / "new").exists()


def test_pools_of_nothing_are_refused(base, tmp_path):
    for name, value in (("epochs", ()), ("learning_rates", ()), ("people", 1), ("methods", ("impact-npo",))):
        with pytest.raises(ExpungeError):
            calibrate(CalibrateConfig(model=str(base), output=tmp_path / "new", **{**SETTINGS, name: value}))
    assert not (tmp_path / "new").exists()
