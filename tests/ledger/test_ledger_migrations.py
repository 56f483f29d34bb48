"""Schema changes, up and down, on a ledger with something in it."""

import sqlalchemy as sa

from expunge.ledger import Ledger
from expunge.ledger.database import Database, downgrade
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
