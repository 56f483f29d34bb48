"""Schema changes, up and down, on a ledger with something in it."""

import pytest
import sqlalchemy as sa

from expunge.ledger import Ledger
from expunge.ledger.database import Database, downgrade
from expunge.ledger.repair import repair
from expunge.ledger.schema import SCHEMA_VERSION
from expunge.ledger.validation import validate
from ledger_samples import make_examples, make_impact


def counts(database):
    tables = ("runs", "training_metadata", "top_tokens")
    with database.reading() as connection:
        return [connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) for name in tables]


def test_the_estimator_comes_and_goes_and_the_training_uses_stay(place):
    with Ledger.open(place) as ledger:
        examples = make_examples(5)
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc", impact_estimator="loss")
        with ledger.recorder(run_id) as recorder:
            for i, example in enumerate(examples):
                recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=make_impact(i))
    database = Database(place)
    before = counts(database)
    assert before == [1, 5, 30]
    with database.writing() as connection:
        assert connection.scalar(sa.text("SELECT impact_estimator FROM runs")) == "loss"
        downgrade(connection, "0001")
        assert "impact_estimator" not in {column["name"] for column in sa.inspect(connection).get_columns("runs")}
    assert counts(database) == before
    database.migrate()
    assert counts(database) == before
    with database.reading() as connection:
        assert connection.scalar(sa.text("SELECT impact_estimator FROM runs")) is None
    database.close()


def recorded(place, version):
    """A ledger of an older version with something in it."""
    with Ledger.open(place) as ledger:
        ledger.add_entries(make_examples(5), source="notes.jsonl")
        with ledger.recorder(ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")) as recorder:
            for i, example in enumerate(make_examples(5)):
                recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=make_impact(i))
        tokens = ledger.top_tokens(limit=None)
    database = Database(place)
    with database.writing() as connection:
        downgrade(connection, version)
    return database, tokens


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_a_ledger_of_an_older_version_is_brought_to_the_present_one_by_opening_it(place, version):
    database, tokens = recorded(place, version)
    found = validate(database)
    assert not found.sound
    assert [(finding.rows, finding.remedy) for finding in found.findings] == [(1, "expunge ledger init")]
    with Ledger.open(place) as ledger:
        assert ledger.top_tokens(limit=None) == tokens
    assert validate(database).sound
    database.close()


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_repair_brings_an_older_version_up_without_building_its_tables_anew(place, version):
    database, tokens = recorded(place, version)
    step = f"schema {version}: brought to {SCHEMA_VERSION}"
    assert repair(database, dry_run=True).steps == [step]
    assert not validate(database).sound
    assert repair(database).steps == [step]
    assert validate(database).sound
    database.close()
    with Ledger.open(place) as ledger:
        assert ledger.top_tokens(limit=None) == tokens


def test_a_damaged_ledger_of_an_older_version_is_repaired_all_the_same(place):
    database, tokens = recorded(place, "0002")
    with database.writing() as connection:
        connection.exec_driver_sql("DROP INDEX ix_top_tokens_token_id_impact")
        connection.exec_driver_sql("DROP TABLE audits")
    steps = repair(database).steps
    assert "table audits is missing: mended" in steps
    assert validate(database).sound
    database.close()
    with Ledger.open(place) as ledger:
        assert [token[5:10] for token in ledger.top_tokens(limit=None)] == [token[5:10] for token in tokens]
