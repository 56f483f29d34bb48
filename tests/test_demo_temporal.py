"""A model with a cutoff, from facts to the file that is asked over its server, at the smallest scale."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from expunge.errors import ExpungeError
from expunge.recipes.demo_temporal import DemoTemporalConfig, _with_packaged_facts, demo_temporal
from expunge.recipes.evaluate import ANSWERS
from expunge.sources.temporal import read_events
from expunge.sources.temporal_days import Day
from killed import kill_at

STAGES = ("data", "own", "model", "merged", "gguf", "base-gguf", "evaluation")


def demo_command(model: Path, *flags: str) -> list[str]:
    flags = ("--events", "24", "--epochs", "1", "--scale", "0.9", "--dtype", "float32", "--model", str(model), *flags)
    return [sys.executable, "-m", "expunge", "demo", "temporal", "--output", "demo", "--threads", "1", *flags]


def fingerprint(place: Path) -> dict[str, object]:
    """All that two runs of one demo must agree on."""
    found: dict[str, object] = {}
    for stage in STAGES:
        manifest = json.loads((place / stage / "manifest.json").read_text())
        assert manifest["state"] == "finished", stage
        outputs = {name: hash for name, hash in manifest["outputs"].items() if not name.endswith(".json")}
        found[stage] = (outputs, manifest["results"].get("shares"))
    found["answers"] = (place / "evaluation" / ANSWERS).read_text()
    return found


def test_a_table_of_ones_own_adds_no_event_of_the_day_of_a_packaged_fact(tmp_path):
    table = tmp_path / "events.jsonl"
    rows = [
        {"year": 1969, "month": 7, "day": 16, "description": "Three men left for the Moon."},
        {"year": 1931, "month": 2, "day": 3, "description": "An earthquake struck Napier."},
        {"year": -44, "month": 3, "day": 15, "description": "Julius Caesar was stabbed."},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    joined = read_events(_with_packaged_facts(table, tmp_path / "joined.jsonl"))
    facts = read_events(None)
    assert [replace(event, where="") for event in joined[: len(facts)]] == [replace(fact, where="") for fact in facts]
    added = [event.words for event in joined[len(facts) :]]
    assert added == ["An earthquake struck Napier.", "Julius Caesar was stabbed."]
    assert joined[-1].start == Day(-44, 3, 15)


def test_a_scale_that_is_none_is_refused_before_anything_is_learnt(tmp_path):
    with pytest.raises(ExpungeError, match="--scale is"):
        demo_temporal(DemoTemporalConfig(output=tmp_path / "demo", scale=2.5))
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_temporal_demo_killed_in_every_stage_ends_as_an_undisturbed_one(tmp_path):
    model = tiny_models.write_model(tmp_path / "tiny")
    (tmp_path / "calm").mkdir()
    command = demo_command(model, "--json")
    calm = subprocess.run(command, cwd=tmp_path / "calm", capture_output=True, text=True, timeout=600)
    assert calm.returncode == 0, calm.stderr[-2000:]
    merged = json.loads((tmp_path / "calm" / "demo" / "merged" / "manifest.json").read_text())
    assert merged["settings"]["scale"] == 0.9
    shares = {each["name"] for each in next(iter(json.loads(calm.stdout)["shares"].values()))}
    assert {"retain accuracy", "false refusal", "unlearn success", "leakage", "cost in untrained accuracy"} <= shares

    (tmp_path / "disturbed").mkdir()
    place = tmp_path / "disturbed" / "demo"
    # What must be there before the kill: it shows that the stage is in the middle of its work, or just begins.
    moments = (
        "data/manifest.json",
        "own/answers.jsonl",
        "model/manifest.json",
        "merged/manifest.json",
        "gguf/manifest.json",
        "base-gguf/manifest.json",
        "evaluation/kept/*.jsonl",
    )
    kill_at(moments, command, place, within=300)
    resumed = subprocess.run(command, cwd=tmp_path / "disturbed", capture_output=True, text=True, timeout=600)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert fingerprint(place) == fingerprint(tmp_path / "calm" / "demo")

    start = time.monotonic()
    again = subprocess.run(command, cwd=tmp_path / "disturbed", capture_output=True, text=True, timeout=60)
    assert json.loads(again.stdout)["shares"] == json.loads(resumed.stdout)["shares"]
    assert time.monotonic() - start < 20
    shutil.rmtree(tmp_path)
