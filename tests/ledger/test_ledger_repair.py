import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import sqlalchemy as sa

from expunge.errors import ExpungeError
from expunge.ledger import Ledger, TopToken
from expunge.ledger.database import Database
from expunge.ledger.repair import repair
from expunge.ledger.validation import validate
from ledger_samples import make_examples, make_impact

METADATA = """CREATE TABLE training_metadata (id INTEGER PRIMARY KEY, entry_id TEXT, model_checkpoint_hash TEXT,
    average_loss REAL, relative_loss REAL, used_in_training BOOLEAN, timestamp TEXT{more})"""
TOKENS = """CREATE TABLE top_tokens (id INTEGER PRIMARY KEY, token_impact_id INTEGER{key}, token_id INTEGER, position INTEGER,
    impact REAL, context_start INTEGER, context_end INTEGER)"""
WHEN = "2024-03-20T12:00:00"


def old_ledger(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            if isinstance(statement, str):
                connection.execute(statement)
            else:
                connection.executemany(*statement)
        connection.commit()
    return str(path)


def uses(entries):
    columns = "id, entry_id, model_checkpoint_hash, average_loss, relative_loss, used_in_training, timestamp"
    rows = [(i + 1, entry, WHEN) for i, entry in enumerate(entries)]
    return (f"INSERT INTO training_metadata ({columns}) VALUES (?, ?, 'c0ffee', 1.5, 1.0, 1, ?)", rows)


def mended(place, **options):
    database = Database(place, create=False)
    try:
        found = repair(database, **options)
        if not options.get("dry_run"):
            assert [finding for finding in validate(database).findings if finding.remedy == "expunge ledger repair"] == []
            again = repair(database)
            assert (again.steps, again.backup) == ([], None)
        return found
    finally:
        database.close()


def tokens_of(place, entry_id):
    with Ledger.open(place, create=False) as ledger:
        return sorted(TopToken(*token[5:10]) for token in ledger.top_tokens(entry_ids=[entry_id], limit=None))


def test_the_singular_table_of_an_older_make_becomes_the_plural_one_with_all_that_was_in_it(tmp_path):
    place = old_ledger(
        tmp_path / "old.db",
        METADATA.format(more=""),
        """CREATE TABLE token_impact (id INTEGER PRIMARY KEY, metadata_id INTEGER REFERENCES training_metadata (id),
            total_tokens INTEGER)""",
        TOKENS.format(key=" REFERENCES token_impact (id)"),
        uses(["a", "b", "a"]),
        ("INSERT INTO token_impact VALUES (?, ?, 50)", [(7, 1), (8, 2), (9, 3)]),
        ("INSERT INTO top_tokens VALUES (?, ?, ?, 4, ?, 2, 7)", [(1, 7, 100, 0.5), (2, 8, 200, 0.25), (3, 9, 300, 0.125)]),
    )
    before = everything(place)
    report = mended(place)
    assert any(step.startswith("table token_impact (now token_impacts) is there") for step in report.steps)
    assert tokens_of(place, "a") == [TopToken(100, 4, 0.5, 2, 7), TopToken(300, 4, 0.125, 2, 7)]
    assert tokens_of(place, "b") == [TopToken(200, 4, 0.25, 2, 7)]
    assert everything(report.backup) == before
    with Ledger.open(place) as ledger:
        status = ledger.status()
        # One entry was trained on twice: neither use is lost.
        assert (status.entries, status.runs, status.training_uses, status.token_impacts, status.top_tokens) == (2, 2, 3, 3, 3)
        run_id = ledger.start_run(name="finetune", path="runs/new", checkpoint="abc")
        ledger.add_entries(make_examples(3), source="notes.jsonl")
        with ledger.recorder(run_id) as recorder:
            recorder.mark_used_in_training(make_examples(3)[0].id, losses=[1.0], token_impact=make_impact(0))
        assert ledger.status().top_tokens == 9


@pytest.mark.parametrize("referred", ["token_impact", "token_impacts"])
def test_both_tables_at_once_are_merged_and_nothing_is_lost(tmp_path, referred):
    other = {"token_impact": "token_impacts", "token_impacts": "token_impact"}[referred]
    place = old_ledger(
        tmp_path / "old.db",
        METADATA.format(more=""),
        "CREATE TABLE token_impact (id INTEGER PRIMARY KEY, metadata_id INTEGER, total_tokens INTEGER)",
        "CREATE TABLE token_impacts (id INTEGER PRIMARY KEY, metadata_id INTEGER, total_tokens INTEGER)",
        TOKENS.format(key=f" REFERENCES {referred} (id)"),
        uses(["a", "b", "c"]),
        # The number 1 stands in both tables for different uses: the key of top_tokens says which is meant.
        (f"INSERT INTO {referred} VALUES (?, ?, 50)", [(1, 1), (2, 2)]),
        (f"INSERT INTO {other} VALUES (?, ?, 60)", [(1, 2), (5, 3)]),
        ("INSERT INTO top_tokens VALUES (?, ?, ?, 4, 0.5, 2, 7)", [(1, 1, 100), (2, 2, 200), (3, 5, 300)]),
    )
    report = mended(place)
    assert tokens_of(place, "a") == [TopToken(100, 4, 0.5, 2, 7)]
    assert tokens_of(place, "b") == [TopToken(200, 4, 0.5, 2, 7)]
    assert tokens_of(place, "c") == [TopToken(300, 4, 0.5, 2, 7)]
    assert "1 token impacts of a training use that has another: merged into it" in report.steps


def test_several_token_impacts_of_one_use_become_one_with_the_tokens_of_all(tmp_path):
    place = old_ledger(
        tmp_path / "old.db",
        METADATA.format(more=""),
        "CREATE TABLE token_impacts (id INTEGER PRIMARY KEY, metadata_id INTEGER, total_tokens INTEGER)",
        TOKENS.format(key=""),
        uses(["a"]),
        ("INSERT INTO token_impacts VALUES (?, 1, ?)", [(1, 30), (2, 50)]),
        ("INSERT INTO top_tokens VALUES (?, ?, ?, ?, ?, 0, 50)", [(1, 1, 9, 3, 0.5), (2, 2, 9, 3, 0.75), (3, 2, 8, 40, 0.25)]),
    )
    report = mended(place)
    assert tokens_of(place, "a") == [TopToken(8, 40, 0.25, 0, 50), TopToken(9, 3, 0.75, 0, 50)]
    assert "1 top tokens recorded twice: the most impactful kept" in report.steps


CRITICAL = {
    "critical_tokens": [
        {"token_id": 11, "position": 3, "impact": 0.5, "context": [1, 6]},
        {"token_id": 12, "position": 9, "impact_score": 0.25, "token": "x"},
    ],
    "impact_threshold": 0.2,
    "total_tokens": 40,
}


@pytest.mark.parametrize("where", ["training_metadata", "token_impact", "token_impacts", "columns"])
def test_impact_data_held_as_json_becomes_top_tokens(tmp_path, where):
    impacts = "CREATE TABLE {name} (id INTEGER PRIMARY KEY, metadata_id INTEGER, {more})"
    tables = {
        "training_metadata": [METADATA.format(more=", token_impact TEXT")],
        "token_impact": [METADATA.format(more=""), impacts.format(name="token_impact", more="data JSON")],
        "token_impacts": [
            METADATA.format(more=""),
            impacts.format(name="token_impacts", more="total_tokens INTEGER, data JSON"),
        ],
        "columns": [
            METADATA.format(more=""),
            impacts.format(name="token_impact", more="critical_tokens JSON, impact_threshold REAL, total_tokens INTEGER"),
        ],
    }[where]
    content = json.dumps(CRITICAL)
    row = {
        "training_metadata": ("UPDATE training_metadata SET token_impact = ? WHERE id = 2", [(content,)]),
        "token_impact": ("INSERT INTO token_impact VALUES (5, 2, ?)", [(content,)]),
        "token_impacts": ("INSERT INTO token_impacts VALUES (5, 2, 40, ?)", [(content,)]),
        "columns": ("INSERT INTO token_impact VALUES (5, 2, ?, 0.2, 40)", [(json.dumps(CRITICAL["critical_tokens"]),)]),
    }[where]
    place = old_ledger(tmp_path / "old.db", *tables, uses(["a", "b"]), row)
    report = mended(place)
    assert tokens_of(place, "b") == [TopToken(11, 3, 0.5, 1, 6), TopToken(12, 9, 0.25, 9, 10)]
    assert tokens_of(place, "a") == []
    assert "2 critical tokens held as JSON: turned into top_tokens" in report.steps
    with closing(sqlite3.connect(place)) as connection:
        assert connection.execute("SELECT metadata_id, total_tokens FROM token_impacts").fetchall() == [(2, 40)]


def test_impact_data_that_cannot_be_read_is_reported_and_stays_in_the_backup(tmp_path):
    strange = json.dumps({"critical_tokens": [[1, 2], "x"], "total_tokens": 9})
    place = old_ledger(
        tmp_path / "old.db",
        METADATA.format(more=", token_impact TEXT"),
        uses(["a"]),
        ("UPDATE training_metadata SET token_impact = ?", [(strange,)]),
    )
    report = mended(place)
    assert "1 impact records in JSON of no known form: left behind, in the backup alone" in report.steps
    with closing(sqlite3.connect(report.backup)) as connection:
        assert connection.execute("SELECT token_impact FROM training_metadata").fetchall() == [(strange,)]


def recorded(place):
    with Ledger.open(place) as ledger:
        ledger.add_entries(make_examples(40), source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as recorder:
            for i, example in enumerate(make_examples(40)):
                recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=make_impact(i))
        ledger.request_deletion(subjects=["Person 3"])
    return place


def everything(place):
    database = Database(place)
    with database.reading() as connection:
        names = sorted(set(sa.inspect(connection).get_table_names()) - {"alembic_version"})
        content = {name: sorted(connection.exec_driver_sql(f"SELECT * FROM {name}").all(), key=str) for name in names}
    database.close()
    return content


DAMAGES = {
    "a lost index": ["DROP INDEX ix_top_tokens_token_id"],
    "a table without keys": [
        "CREATE TABLE bare AS SELECT * FROM top_tokens",
        "DROP TABLE top_tokens",
        "ALTER TABLE bare RENAME TO top_tokens",
    ],
    "a lost version": ["DROP TABLE alembic_version"],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layout_is_mended_with_every_row_as_it_was(place, damage):
    recorded(place)
    before = everything(place)
    database = Database(place)
    with database.writing() as connection:
        for statement in DAMAGES[damage]:
            connection.exec_driver_sql(statement)
    assert not validate(database).sound
    database.close()
    mended(place)
    after = everything(place)
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    assert [row[1:] for row in after["training_metadata"]] == [row[1:] for row in before["training_metadata"]]
    assert sorted(row[2:] for row in after["top_tokens"]) == sorted(row[2:] for row in before["top_tokens"])
    assert after["request_entries"] == before["request_entries"]


def test_a_missing_column_is_added_and_orphans_are_removed(tmp_path):
    place = old_ledger(
        tmp_path / "old.db",
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, subject TEXT)",
        "CREATE TABLE training_metadata (id INTEGER PRIMARY KEY, entry_id INTEGER, average_loss REAL)",
        "CREATE TABLE token_impacts (id INTEGER PRIMARY KEY, metadata_id INTEGER, total_tokens INTEGER)",
        "CREATE TABLE top_tokens (token_impact_id INTEGER, token_id INTEGER, position INTEGER, impact REAL)",
        ("INSERT INTO entries VALUES (?, ?)", [(1, "Ana López"), (2, "Bo")]),
        ("INSERT INTO training_metadata VALUES (?, ?, 2.5)", [(1, 1), (2, 2), (3, 99)]),
        ("INSERT INTO token_impacts VALUES (?, ?, 10)", [(1, 1), (2, 77)]),
        ("INSERT INTO top_tokens VALUES (?, 5, 6, 0.5)", [(1,), (2,), (55,)]),
    )
    report = mended(place)
    with Ledger.open(place) as ledger:
        assert [token[5:10] for token in ledger.top_tokens(subject="ANA LÓPEZ")] == [(5, 6, 0.5, 6, 7)]
        assert ledger.status().training_uses == 2
    assert "1 training uses of entries that are not there: removed" in report.steps
    assert "1 token impacts of training uses that are not there: removed" in report.steps
    assert "2 top tokens without token impacts or without their numbers: removed" in report.steps


ROW_DAMAGES = [
    ("UPDATE top_tokens SET position = 500 WHERE id = 3", "1 top tokens at a position outside their sequence: removed"),
    (
        "UPDATE top_tokens SET context_end = position WHERE id = 3",
        "1 top tokens outside their own context window: window mended",
    ),
    ("UPDATE top_tokens SET context_start = -4 WHERE id = 3", "1 top tokens outside their own context window: window mended"),
    (
        "INSERT INTO top_tokens (token_impact_id, token_id, position, impact, context_start, context_end) "
        "SELECT token_impact_id, token_id, position, impact, context_start, context_end FROM top_tokens WHERE id = 3",
        "1 top tokens recorded twice: the most impactful kept",
    ),
]


@pytest.mark.parametrize(("damage", "step"), ROW_DAMAGES)
def test_rows_that_contradict_each_other_are_found_and_mended_in_place(place, damage, step):
    recorded(place)
    database = Database(place)
    with database.writing() as connection:
        connection.exec_driver_sql(damage)
    found = [finding for finding in validate(database).findings if finding.broken]
    assert [(finding.rows, finding.remedy) for finding in found] == [(1, "expunge ledger repair")]
    database.close()
    assert mended(place).steps == [step]


def test_orphans_that_slipped_in_are_found_and_removed(tmp_path):
    place = recorded(str(tmp_path / "ledger.db"))
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM training_metadata WHERE id IN (1, 2)")
        connection.commit()
    found = validate(Database(place)).findings
    assert [(finding.what, finding.rows) for finding in found if finding.broken] == [
        ("rows of token_impacts whose metadata_id is not in training_metadata", 2)
    ]
    steps = mended(place).steps
    assert steps == [
        "2 rows of token_impacts whose metadata_id is not in training_metadata: removed",
        "12 rows of top_tokens whose token_impact_id is not in token_impacts: removed",
    ]


def test_a_dry_run_says_the_same_and_changes_nothing(tmp_path):
    place = old_ledger(tmp_path / "old.db", METADATA.format(more=", token_impact TEXT"), uses(["a"]))
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    before = everything(place)
    planned = mended(place, dry_run=True)
    assert everything(place) == before
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []
    assert planned.backup is None
    assert planned.steps == mended(place).steps


KILLED = """
import os, sys
import expunge.ledger.repair as module
from expunge.ledger.database import Database
before = getattr(module, sys.argv[2])
def killed(*arguments):
    os.kill(os.getpid(), 9)
setattr(module, sys.argv[2], killed)
module.repair(Database(sys.argv[1], create=False))
"""


@pytest.mark.parametrize("moment", ["_backed_up", "upgrade", "_carry_top_tokens", "continue_counting", "_check"])
def test_a_repair_that_is_killed_leaves_the_old_ledger_and_can_be_repeated(tmp_path, moment):
    place = old_ledger(
        tmp_path / "old.db",
        METADATA.format(more=""),
        "CREATE TABLE token_impact (id INTEGER PRIMARY KEY, metadata_id INTEGER, total_tokens INTEGER)",
        TOKENS.format(key=""),
        uses(["a"]),
        ("INSERT INTO token_impact VALUES (?, ?, 50)", [(7, 1)]),
        ("INSERT INTO top_tokens VALUES (?, ?, ?, 4, ?, 2, 7)", [(1, 7, 100, 0.5)]),
    )
    before = everything(place)
    assert subprocess.run([sys.executable, "-c", KILLED, place, moment]).returncode == -9
    assert everything(place) == before
    mended(place)
    assert tokens_of(place, "a") == [TopToken(100, 4, 0.5, 2, 7)]


def test_a_database_of_something_else_is_neither_judged_nor_mended(tmp_path):
    place = old_ledger(tmp_path / "foreign.db", "CREATE TABLE bookmarks (id INTEGER)")
    for action in (validate, repair):
        with pytest.raises(ExpungeError, match="is a database of something else"):
            action(Database(place))


def test_a_sound_ledger_is_told_to_be_so_with_its_numbers(place):
    recorded(place)
    database = Database(place)
    found = validate(database)
    database.close()
    assert (found.sound, found.findings, found.coverage) == (True, [], 1.0)
    assert (found.counts["entries"], found.counts["top_tokens"]) == (40, 240)
    impacts = sorted(token.impact for i in range(40) for token in make_impact(i).top_tokens)
    numbers = found.distributions["impact"]
    assert (numbers["min"], numbers["max"]) == (impacts[0], impacts[-1])
    assert numbers["mean"] == pytest.approx(sum(impacts) / 240)
    assert numbers["p50"] == pytest.approx(impacts[120], abs=0.01)


def test_training_uses_without_any_token_impact_are_called_out(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(make_examples(4), source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as recorder:
            for example in make_examples(4):
                recorder.mark_used_in_training(example.id, losses=[1.0])
    found = validate(Database(tmp_path / "ledger.db"))
    assert not found.sound
    assert found.coverage == 0
    assert ("training uses without token impacts", 4) in {(finding.what, finding.rows) for finding in found.findings}
