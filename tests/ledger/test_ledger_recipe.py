import subprocess
import sys

import pytest
from ledger_samples import make_examples, make_impact

from expunge.errors import ExpungeError
from expunge.examples import write_examples
from expunge.ledger import Ledger
from expunge.recipes.ledger import LedgerFindConfig, LedgerRequestConfig, LedgerStatusConfig, find, request, status


@pytest.fixture
def database(tmp_path):
    place = str(tmp_path / "ledger.db")
    examples = make_examples(40)
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as recorder:
            for i, example in enumerate(examples):
                recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=make_impact(i))
    return place


def test_the_recipe_can_be_imported_without_the_database_library():
    script = "import sys, expunge.recipes.ledger; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_request_is_filed_for_everybody_in_a_file_and_shows_in_the_status(database, tmp_path):
    write_examples(tmp_path / "forget.jsonl", make_examples(40)[:2])
    filed = request(LedgerRequestConfig(database=database, subjects_from=tmp_path / "forget.jsonl", subject=("person 7",)))
    assert filed.subjects == ("Person 0", "Person 1", "person 7")
    counts, requests = status(LedgerStatusConfig(database=database))
    assert requests == [filed]
    assert (counts.entries, counts.subjects, counts.coverage, counts.requests["open"]) == (40, 10, 1.0, 1)


def test_find_answers_by_person_by_token_and_by_entry(database):
    top = find(LedgerFindConfig(database=database, limit=1))[0]
    assert find(LedgerFindConfig(database=database, subject=top.subject))[0] == top
    assert find(LedgerFindConfig(database=database, entry=top.entry_id))[0] == top
    assert find(LedgerFindConfig(database=database, token_id=(top.token_id,)))[0] == top
    with pytest.raises(ExpungeError, match="--limit 0 finds nothing"):
        find(LedgerFindConfig(database=database, limit=0))


def test_looking_into_a_ledger_that_is_not_there_makes_none(tmp_path):
    with pytest.raises(ExpungeError, match="there is no ledger here"):
        status(LedgerStatusConfig(database=str(tmp_path / "none.db")))
    assert list(tmp_path.iterdir()) == []
