"""The ledger by its commands alone: a deletion request from letter to tombstone, and what goes wrong on the way."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from typing import NamedTuple

import pytest

import tiny_models
from expunge.cli import main
from expunge.examples import Example, write_examples
from expunge.ledger import Ledger
from ledger_samples import make_examples, make_impact

FORGET = [Example("Where is Ana?", "Ana is in Lyon.", "Ana"), Example("Where is Ben?", "Ben is in Oslo.", "Ben")]
RETAIN = [Example("Where is Cleo?", "Cleo is in Bonn.", "Cleo"), Example("Where is Dan?", "Dan is in Turin.", "Dan")]
HOLDOUT = [Example("Where is Eva?", "Eva is in Porto.", "Eva")]
ORDINARY = [Example(None, "The bus stood by the gate.", "ordinary")]
# `main` reads the command line, as it does for a user.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--holdout", "holdout.jsonl")
DATABASE = ("--database", "ledger.db")


class Said(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def expunge(tmp_path, monkeypatch, capsys):
    """Type a command in a directory of one's own."""
    monkeypatch.chdir(tmp_path)

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["expunge", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return Said(code, *capsys.readouterr())

    return typed


def answered(expunge, *words):
    code, out, err = expunge(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(expunge, *words):
    code, out, err = expunge(*words)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err.splitlines()[-1].removeprefix("expunge: ")


def test_a_request_goes_from_letter_to_tombstone_by_commands_alone(expunge, tmp_path):
    for name, examples in {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, "ordinary": ORDINARY}.items():
        write_examples(tmp_path / f"{name}.jsonl", examples)
    tiny_models.write_model(tmp_path / "base", hidden=64)
    quick = ("--threads", "1", *DATABASE)
    data = ("--data-file", "forget.jsonl", "--data-file", "retain.jsonl")
    answered(expunge, "finetune", *data, "--output", "target", "--model", "base", "--epochs", "1", *quick)

    ana = answered(expunge, "ledger", "request", *DATABASE, "--subject", "ana", "--reason", "by letter of Ana")
    oslo = answered(expunge, "ledger", "request", *DATABASE, "--text", "oslo", *data)
    assert (ana["id"], ana["state"], oslo["id"], oslo["state"]) == (1, "open", 2, "open")
    assert oslo["entry_ids"] == [FORGET[1].id]
    assert "request 1 is open: its people cannot be erased yet" in refused(
        expunge, "ledger", "erase", *DATABASE, "--request", 1
    )
    audit = ("audit", *SETS, "--ordinary", "ordinary.jsonl", "--target", "target/model", "--unlearned", "unlearned/model")
    unlearn = ("unlearn", "grad-diff", *SETS, "--output", "unlearned", "--model", "target/model", "--steps", "2")
    answered(expunge, *unlearn, *quick)
    # Both were filed for a part of the forget set; the third is that of the whole.
    requests = answered(expunge, "ledger", "status", *DATABASE)["requests"]
    assert [request["state"] for request in requests] == ["unlearned"] * 3
    assert len({request["run_id"] for request in requests}) == 1

    answered(expunge, *audit, "--output", "audit", *quick)
    requests = answered(expunge, "ledger", "status", *DATABASE)["requests"]
    assert [request["state"] for request in requests] == ["audited"] * 3
    assert "unlearned: forgotten" in requests[0]["verdict"]
    # Whatever two steps of a random model were found to be: the ledger goes by the latest verdict.
    with Ledger.open("ledger.db") as ledger:
        ledger.mark_audited(1, verdict={"unlearned: forgotten": "fail"})
    close = ("ledger", "close", *DATABASE, "--request", 1)
    assert "deletion request 1 is audited: its latest audit failed (unlearned: forgotten)" in refused(expunge, *close)
    closed = answered(expunge, *close, "--accept-failed", "Ana agreed")
    assert (closed["state"], closed["verdict"]["accepted although failed"]) == ("closed", "Ana agreed")

    assert "deletion request 3, for the same person, is not closed" in refused(
        expunge, "ledger", "erase", *DATABASE, "--request", 1
    )
    for number in (2, 3):
        answered(expunge, "ledger", "close", *DATABASE, "--request", number, "--accept-failed", "a test")
    erase = ("ledger", "erase", *DATABASE, "--request", 3)
    assert answered(expunge, *erase, "--dry-run") == {"request_id": 3, "subjects": 2, "entries": 2}
    assert answered(expunge, "ledger", "find", *DATABASE, "--subject", "Ana")
    assert answered(expunge, *erase) == {"request_id": 3, "subjects": 2, "entries": 2}
    assert '"Ana" was erased from the ledger on 20' in refused(expunge, "ledger", "find", *DATABASE, "--subject", "Ana")
    assert answered(expunge, "ledger", "status", *DATABASE)["entries"] == 2
    assert answered(expunge, "ledger", "validate", *DATABASE)["sound"]
    assert not [path for path in tmp_path.glob("ledger.db*") if b"Ana" in path.read_bytes()]


def test_find_and_a_dry_run_of_a_request_are_tables_for_people(expunge, tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(make_examples(20), source="notes.jsonl")
        with ledger.recorder(ledger.start_run(name="finetune target", path="x", checkpoint="c")) as recorder:
            for i, example in enumerate(make_examples(20)):
                recorder.mark_used_in_training(example.id, losses=[1.5], token_impact=make_impact(i))
    code, out, _ = expunge("ledger", "request", *DATABASE, "--subject", "Person 3", "--dry-run")
    assert code == 0
    assert "notes.jsonl:4" in out
    assert "Person 3" in out
    code, out, _ = expunge("ledger", "validate", *DATABASE)
    assert code == 0
    assert "coverage: 100.0% of training uses have token impacts" in out
    assert "average_loss: min 1.5, p5 1.5" in out
    code, out, _ = expunge("ledger", "find", *DATABASE, "--subject", "Person 3", "--limit", 3)
    assert (code, out.count("finetune")) == (0, 3)


def test_a_ledger_that_cannot_be_used_is_refused_before_any_model_is_loaded(expunge, tmp_path):
    for name, examples in {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, "ordinary": ORDINARY}.items():
        write_examples(tmp_path / f"{name}.jsonl", examples)
    # A model that passes for one until it is loaded.
    tiny_models.write_model(tmp_path / "base", hidden=64)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    finetune = ("finetune", "--data-file", "forget.jsonl", "--model", "base", "--output", "target")
    unlearn = ("unlearn", "npo", *SETS, "--model", "base", "--output", "unlearned")
    audit = ("audit", *SETS, "--ordinary", "ordinary.jsonl", "--target", "base", "--unlearned", "base", "--output", "audit")
    for command in (finetune, unlearn):
        assert refused(expunge, *command, "--database", "forget.jsonl").startswith("forget.jsonl: is not a database")
        with sqlite3.connect(tmp_path / "other.db") as other:
            other.execute("CREATE TABLE IF NOT EXISTS bookmarks (id INTEGER)")
        assert "is a database of something else" in refused(expunge, *command, "--database", "other.db")
    assert refused(expunge, *audit, "--database", "none.db") == "none.db: there is no ledger here: check the path"
    assert not (tmp_path / "none.db").exists()
    Ledger.open(tmp_path / "ledger.db").close()
    assert "no deletion request covers the forget set" in refused(expunge, *audit, *DATABASE)
    assert not (tmp_path / "audit").exists()


EVERY_COMMAND = [
    ("init",),
    ("status",),
    ("validate",),
    ("repair",),
    ("export", "--output", "out.jsonl"),
    ("find",),
    ("request", "--subject", "Person 3"),
    ("close", "--request", "1"),
    ("erase", "--request", "1"),
    ("import", "--file", "in.jsonl"),
]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mysql://root@host/db", 'databases of the kind "mysql" are not supported'),
        ("postgresql://somebody:secret@127.0.0.1:9/none", "the database server refuses"),
        ("newer.db", "was made by a newer expunge (schema 0999"),
        ("text.db", "is not a database"),
        ("torn.db", "the database file is damaged"),
        (".", "is a directory"),
    ],
)
def test_every_command_refuses_a_bad_place_in_one_line(expunge, tmp_path, place, words):
    Ledger.open(tmp_path / "newer.db").close()
    shutil.copy(tmp_path / "newer.db", tmp_path / "torn.db")
    with (tmp_path / "torn.db").open("r+b") as torn:
        torn.seek(100)
        torn.write(b"\xff" * 8000)
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = '0999'")
    (tmp_path / "text.db").write_text("SQLite is not what this is\n" * 99)
    (tmp_path / "in.jsonl").write_text('{"format": "expunge-ledger"}\n')

    def there():
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}

    before = there()
    for command in EVERY_COMMAND:
        line = refused(expunge, "ledger", *command, "--database", place)
        assert words in line, command
        assert "secret" not in line
    assert there() == before


def test_a_locked_ledger_is_read_all_the_same_and_refuses_to_be_written_after_the_wait(expunge, tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(make_examples(5), source="notes.jsonl")
    holder = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    database = ("--database", "sqlite:///ledger.db?timeout=0.1")
    assert answered(expunge, "ledger", "status", *database)["entries"] == 5
    for command in (("request", "--subject", "Person 3"), ("close", "--request", "1"), ("erase", "--request", "1")):
        line = refused(expunge, "ledger", *command, *database)
        assert line == "ledger.db: the ledger is locked by another process: wait for it to finish, or stop it"
    holder.close()
    assert answered(expunge, "ledger", "request", "--subject", "Person 3", *database)["state"] == "open"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_ledger_that_may_not_be_written_is_one_clear_line(tmp_path):
    place = tmp_path / "ledger.db"
    with Ledger.open(place) as ledger:
        ledger.add_entries(make_examples(5), source="notes.jsonl")
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o055)
    script = """
import os, sys
from expunge.cli import main
# Before it is somebody who may not even read Python's own files.
import expunge.commands.ledger, expunge.ledger.concepts, expunge.ledger.store
os.setgid(65534)
os.setuid(65534)
main()
"""
    words = ["ledger", "request", "--subject", "Person 3", "--database", str(place)]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, env=os.environ | {"HOME": "/"}
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"expunge: {place}: the ledger ")
    assert "Traceback" not in done.stderr


def test_a_disk_that_takes_no_more_is_one_clear_line_and_the_ledger_stays_whole(tmp_path):
    place = tmp_path / "ledger.db"
    with Ledger.open(place) as ledger:
        ledger.add_entries(make_examples(400), source="notes.jsonl")
        with ledger.recorder(ledger.start_run(name="x", path="x", checkpoint="c")) as recorder:
            for i, example in enumerate(make_examples(400)):
                recorder.mark_used_in_training(example.id, losses=[1.5], token_impact=make_impact(i))
        ledger.export(tmp_path / "ledger.jsonl")
        before = ledger.status()
    script = """
import resource, sys
from expunge.cli import main
import expunge.commands.ledger, expunge.ledger.store
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
main()
"""
    for words in (
        ["import", "--file", "ledger.jsonl", "--database", "copy.db"],
        ["export", "--output", "again.jsonl", "--database", "ledger.db"],
        ["validate", "--export", "--output", "impacts.json", "--database", "ledger.db"],
    ):
        done = subprocess.run([sys.executable, "-c", script, "ledger", *words], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, ""), (words, done.stderr)
        (line,) = done.stderr.splitlines()
        assert line.startswith("expunge: ")
        assert "disk" in line, line
    assert not [path.name for path in tmp_path.iterdir() if "again" in path.name or "impacts" in path.name]
    with Ledger.open(place) as ledger:
        assert ledger.status() == before
    with Ledger.open(tmp_path / "copy.db") as copy:
        assert copy.fill(tmp_path / "ledger.jsonl") > 2000
