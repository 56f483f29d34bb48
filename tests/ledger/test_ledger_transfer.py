import dataclasses
import json
import subprocess
import sys

import pytest

from expunge.errors import ExpungeError
from expunge.ledger import Ledger
from ledger_samples import make_examples, make_impact


def fill(ledger):
    """Something in every table."""
    examples = make_examples(40)
    ledger.add_entries(examples, source="notes.jsonl")
    run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc", impact_estimator="gradient")
    with ledger.recorder(run_id) as recorder:
        for i, example in enumerate(examples[:-1]):
            recorder.mark_used_in_training(example.id, losses=[0.1 + i / 7, 0.3], token_impact=make_impact(i) if i else None)
        recorder.mark_used_in_training(examples[-1].id)
    request_id = ledger.request_deletion(subjects=["Person 3"], reason="ünïcode\n").id
    ledger.mark_unlearned(request_id, run=run_id)
    ledger.mark_audited(request_id, verdict={"forgotten": True, "auc": 0.51})
    ledger.close_request(request_id)
    ledger.erase(request_id)
    ledger.request_deletion(subjects=["Person 4"])
    return run_id


def test_exporting_importing_and_exporting_again_gives_the_same_bytes_on_either_database(place, tmp_path):
    with Ledger.open(tmp_path / "first.db") as first:
        fill(first)
        rows = first.export(tmp_path / "first.jsonl")
        status = first.status()
    with Ledger.open(place) as second:
        assert second.fill(tmp_path / "first.jsonl") == rows
        second.export(tmp_path / "second.jsonl")
        assert second.status() == dataclasses.replace(status, place=second.place)
        assert second.erased_at("person 3") is not None
        # New rows are numbered after the imported ones.
        assert second.start_run(name="more", path="runs/more", checkpoint="x") == 2
        with second.recorder(2) as recorder:
            recorder.mark_used_in_training(make_examples(1)[0].id, losses=[1.0], token_impact=make_impact(1))
        assert second.status().top_tokens == status.top_tokens + 6
    content = (tmp_path / "first.jsonl").read_bytes()
    assert (tmp_path / "second.jsonl").read_bytes() == content
    tables = {json.loads(line)["table"] for line in content.splitlines() if line.startswith(b'{"table"')}
    assert len(tables) == 10


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('{"format":"expunge-ledger"', '{"format":"other"', ":1: is not an exported ledger"),
        ('"schema":"0003"', '"schema":"0999"', ":1: is of schema 0999, this expunge writes 0003"),
        ('"table":"runs"', '"table":"ruins"', ":39: a table that is not known"),
        ('\n[1,"finetune"', '\n["1","finetune"', ':40: "id" cannot be "1"'),
        ('\n[1,"finetune"', '\n[7,1,"finetune"', ":40: a row of 7 values for 6 columns"),
        ('\n[1,"finetune"', '\n[1,"finetune', ":40: broken JSON"),
        ('{"end":', '{"end":1', "rows were exported"),
        ("\n[1,1,", "\n[1,7777,", "its rows contradict each other"),
    ],
)
def test_a_file_that_is_not_a_whole_export_is_refused_and_nothing_of_it_stays(tmp_path, old, new, words):
    with Ledger.open(tmp_path / "first.db") as first:
        fill(first)
        first.export(tmp_path / "first.jsonl")
    content = (tmp_path / "first.jsonl").read_text("utf-8")
    assert old in content
    # The last place: the one among token impacts and top tokens, for the row.
    mended = new.join(content.rsplit(old, 1))
    (tmp_path / "bad.jsonl").write_text(mended, "utf-8")
    with Ledger.open(tmp_path / "second.db") as second:
        with pytest.raises(ExpungeError) as caught:
            second.fill(tmp_path / "bad.jsonl")
        assert words in str(caught.value)
        assert second.status().entries == 0


def test_an_export_of_a_version_with_the_same_tables_is_taken(tmp_path):
    with Ledger.open(tmp_path / "first.db") as first:
        fill(first)
        rows = first.export(tmp_path / "first.jsonl")
    old = (tmp_path / "first.jsonl").read_text("utf-8").replace('"schema":"0003"', '"schema":"0002"', 1)
    (tmp_path / "old.jsonl").write_text(old, "utf-8")
    with Ledger.open(tmp_path / "second.db") as second:
        assert second.fill(tmp_path / "old.jsonl") == rows
        second.export(tmp_path / "second.jsonl")
    assert (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()


def test_a_file_cut_short_a_missing_one_and_a_full_ledger_are_refused(tmp_path):
    with Ledger.open(tmp_path / "first.db") as first:
        fill(first)
        first.export(tmp_path / "first.jsonl")
        with pytest.raises(ExpungeError, match="the ledger is not empty"):
            first.fill(tmp_path / "first.jsonl")
    lines = (tmp_path / "first.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[:-1]), "utf-8")
    with Ledger.open(tmp_path / "second.db") as second:
        with pytest.raises(ExpungeError, match="the file is cut short"):
            second.fill(tmp_path / "cut.jsonl")
        with pytest.raises(ExpungeError, match="cannot be read"):
            second.fill(tmp_path / "none.jsonl")


def test_an_import_that_is_killed_leaves_the_ledger_empty_and_can_be_repeated(place, tmp_path):
    with Ledger.open(tmp_path / "first.db") as first:
        fill(first)
        rows = first.export(tmp_path / "first.jsonl")
    Ledger.open(place).close()
    script = """
import os, sys
from pathlib import Path
import expunge.ledger.transfer as module
from expunge.ledger import Ledger
module.continue_counting = lambda connection: os.kill(os.getpid(), 9)
Ledger.open(sys.argv[1]).fill(Path(sys.argv[2]))
"""
    killed = subprocess.run([sys.executable, "-c", script, place, str(tmp_path / "first.jsonl")])
    assert killed.returncode == -9
    with Ledger.open(place) as ledger:
        assert ledger.status().entries == 0
        assert ledger.fill(tmp_path / "first.jsonl") == rows


def test_token_impacts_are_exported_as_one_json_document(place, tmp_path):
    with Ledger.open(place) as ledger:
        fill(ledger)
        assert ledger.export_impacts(tmp_path / "token_impact_data.json") == 34
        found = json.loads((tmp_path / "token_impact_data.json").read_text("utf-8"))["training_uses"]
        assert sum(len(use["top_tokens"]) for use in found) == ledger.status().top_tokens
        assert [use["subject"] for use in found[:3]] == ["Person 1", "Person 2", "Person 4"]
    tokens = sorted(make_impact(1).top_tokens, key=lambda token: -token.impact)
    assert found[0]["top_tokens"] == [token._asdict() for token in tokens]
    assert found[0]["total_tokens"] == 120
    assert {use["impact_estimator"] for use in found} == {"gradient"}


def test_an_empty_ledger_exports_and_imports_too(tmp_path):
    with Ledger.open(tmp_path / "first.db") as first, Ledger.open(tmp_path / "second.db") as second:
        assert first.export(tmp_path / "first.jsonl") == 0
        assert second.fill(tmp_path / "first.jsonl") == 0
        assert first.export_impacts(tmp_path / "impacts.json") == 0
    assert json.loads((tmp_path / "impacts.json").read_text()) == {"training_uses": []}
