"""The whole story through the command line, on the embedded model, small enough for every run of the tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from killed import kill_at

STAGES = ("data", "target", "retrained", "unlearned", "audit", "merged", "gguf", "audit-shipped")
pytestmark = pytest.mark.timeout(1200)
SMALL = ("--patients", "4", "--epochs", "1", "--json")


def demo_command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "expunge", "demo", "--output", "demo", *flags]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A demo of four people who are seen once: too little to memorise, and the audit must say so."""
    place = tmp_path_factory.mktemp("demo")
    done = subprocess.run(demo_command(*SMALL), cwd=place, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-2000:]
    return place / "demo", json.loads(done.stdout)


def test_the_demo_leaves_every_stage_finished_with_its_settings_and_hashes(small):
    place, _ = small
    for stage in STAGES:
        manifest = json.loads((place / stage / "manifest.json").read_text())
        assert manifest["state"] == "finished", stage
        assert manifest["versions"]["torch"]
        assert all(len(found) == 64 for found in manifest["outputs"].values()), stage
    assert (place / "gguf" / "model-f16.gguf").stat().st_size > 2 * (place / "gguf" / "model-q4_k_m.gguf").stat().st_size


def test_an_audit_of_a_target_that_memorised_nothing_says_that_it_proves_nothing(small):
    _, result = small
    recall = next(s for s in result["scores"] if (s["metric"], s["model"], s["set"]) == ("rouge-l-recall", "target", "forget"))
    assert recall["value"] < 0.9
    assert "did not memorise" in result["warnings"][0]
    assert {claim["ruling"] for claim in result["claims"] if claim["name"] == "forgotten"} == {"not provable"}


def test_all_four_models_answered_the_forget_and_retain_questions(small):
    _, result = small
    assert {answer["set"] for answer in result["answers"]} == {"forget", "retain"}
    scored = {(score["model"], score["set"]) for score in result["scores"] if score["metric"] == "loss"}
    assert scored >= {("shipped", name) for name in ("forget", "retain", "holdout", "ordinary")}
    for answer in result["answers"]:
        assert set(answer["answers"]) == {"target", "unlearned", "retrained", "shipped"}


def test_the_ledger_knows_every_training_example_and_the_audited_request(small):
    from expunge.ledger import Ledger

    place, _ = small
    with Ledger.open(place / "ledger.db") as ledger:
        status, (request,) = ledger.status(), ledger.requests()
        assert request.state == "audited"
        forget = [json.loads(line) for line in (place / "data" / "forget.jsonl").read_text().splitlines()]
        assert [row["subject"] for row in forget] == list(request.subjects)
        # Four notes for the target, three for the reference, then all four in the unlearning run.
        assert status.training_uses == 11
        assert ledger.top_tokens(subject=forget[0]["subject"])
        holdout = json.loads((place / "data" / "holdout.jsonl").read_text().splitlines()[0])
        assert not ledger.top_tokens(subject=holdout["subject"])


def test_a_second_run_answers_at_once_with_the_same_result(small):
    place, result = small
    start = time.monotonic()
    again = subprocess.run(
        demo_command(*SMALL),
        cwd=place.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode == 0
    assert json.loads(again.stdout) == result
    assert time.monotonic() - start < 10


def test_the_report_of_the_demo_opens_offline_in_chromium(small, open_in_chromium, tmp_path):
    place, _ = small
    opened = open_in_chromium(place / "report.html")
    assert opened.console_errors == []
    assert opened.page_errors == []
    assert opened.outside_requests == []
    opened.screenshot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 20_000
    words = opened.page.inner_text("body")
    for role in ("target", "unlearned", "retrained", "shipped"):
        assert role in words.lower()


def fingerprint(place: Path) -> dict[str, object]:
    """All that two runs of one demo must agree on."""
    found: dict[str, object] = {}
    for stage in STAGES:
        manifest = json.loads((place / stage / "manifest.json").read_text())
        found[stage] = (manifest["outputs"], {k: v for k, v in manifest["results"].items() if k != "seconds"})
    found["audit.json"] = (place / "audit-shipped" / "audit.json").read_text()
    return found


@pytest.mark.demo
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_demo_killed_in_every_stage_ends_as_an_undisturbed_one(tmp_path):
    flags = ("--patients", "4", "--epochs", "16")
    (tmp_path / "calm").mkdir()
    calm = subprocess.run(demo_command(*flags), cwd=tmp_path / "calm", capture_output=True, text=True, timeout=1200)
    assert calm.returncode == 0, calm.stderr[-2000:]

    (tmp_path / "disturbed").mkdir()
    place = tmp_path / "disturbed" / "demo"
    # What must be there before the kill: a stage's file that shows that it is in the middle of its work.
    moments = (
        "retrained/manifest.json",
        "target/checkpoint-60/whole",
        "unlearned/manifest.json",
        "evidence/*.jsonl",
        "gguf/manifest.json",
        "audit-shipped/manifest.json",
    )
    kill_at(moments, demo_command(*flags), place, later=1.0)
    resumed = subprocess.run(demo_command(*flags), cwd=tmp_path / "disturbed", capture_output=True, text=True, timeout=1200)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert fingerprint(place) == fingerprint(tmp_path / "calm" / "demo")
    shutil.rmtree(tmp_path)
