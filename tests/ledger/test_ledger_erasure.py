import subprocess
import sys

import pytest

from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.ledger import Ledger
from expunge.ledger.database import Database
from expunge.ledger.validation import validate
from ledger_samples import make_examples, make_impact

NAME = "Zenobia Quux-Ångström"


def people():
    return [*make_examples(20), *(Example(f"q{i}", f"a{i}", NAME, where=f"x:{i + 1}") for i in range(3))]


def closed_request(ledger, **options):
    ledger.add_entries(people(), source="notes_zenobia_quux-ångström.jsonl")
    run_id = ledger.start_run(name=f"unlearn {NAME}", path="runs/unlearned", checkpoint="abc")
    with ledger.recorder(run_id) as recorder:
        for i, example in enumerate(people()):
            recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=make_impact(i))
    request_id = ledger.request_deletion(**(options or {"subjects": [NAME.upper()], "reason": f"{NAME} wrote to us"})).id
    ledger.mark_unlearned(request_id, run=run_id)
    ledger.mark_audited(request_id, verdict={"forgotten": True, "sample": f"{NAME} has asthma", NAME: [NAME]})
    ledger.close_request(request_id)
    return request_id


def traces(place, tmp_path):
    """Every place in the bytes of the ledger that still knows the name."""
    if "://" not in place:
        content = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("ledger.db")}
        return [name for name, data in content.items() for word in ("Zenobia", "zenobia", "ZENOBIA") if word.encode() in data]
    from expunge.ledger.schema import Base

    database = Database(place)
    with database.reading() as connection:
        rows = [
            (table, row)
            for table in Base.metadata.tables
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}")
            if "zenobia" in str(row).casefold()
        ]
    database.close()
    return rows


def test_an_erased_person_is_nowhere_in_the_ledger_but_can_be_asked_for_by_name(place, tmp_path):
    with Ledger.open(place) as ledger:
        request_id = closed_request(ledger)
        assert ledger.erased_at(NAME) is None
        before = ledger.status()
        assert ledger.erase(request_id) == (request_id, 1, 3)
        assert traces(place, tmp_path) == []
        after = ledger.status()
        assert (before.entries - after.entries, before.training_uses - after.training_uses) == (3, 3)
        assert (before.top_tokens - after.top_tokens, after.erased, after.requests["closed"]) == (18, 1, 1)
        assert ledger.erased_at(NAME.lower()) is not None
        assert ledger.erased_at("Person 3") is None
        assert ledger.erase(request_id) == (request_id, 1, 3)
        kept = ledger.requests()[0]
        assert (kept.state, kept.subjects, kept.entry_ids, kept.reason) == ("closed", (), (), "")
        assert kept.verdict["forgotten"] is True
    assert traces(place, tmp_path) == []
    database = Database(place)
    assert validate(database).sound
    database.close()


def test_a_dry_run_counts_what_would_be_erased_and_erases_nothing(place):
    with Ledger.open(place) as ledger:
        request_id = closed_request(ledger)
        before = (ledger.status(), ledger.requests())
        assert ledger.erase(request_id, dry_run=True) == (request_id, 1, 3)
        assert (ledger.status(), ledger.requests()) == before
        assert ledger.erased_at(NAME) is None
        assert ledger.erase(request_id) == (request_id, 1, 3)


def test_single_entries_are_erased_without_a_word_about_their_people(place):
    with Ledger.open(place) as ledger:
        request_id = closed_request(ledger, entry_ids=[people()[0].id, people()[1].id])
        assert ledger.erase(request_id) == (request_id, 0, 2)
        assert ledger.status().entries == 21
        assert ledger.erased_at("Person 0") is None


def test_what_is_not_finished_is_not_erased(place):
    with Ledger.open(place) as ledger:
        with pytest.raises(ExpungeError, match="there is no deletion request 1"):
            ledger.erase(1)
        request_id = closed_request(ledger)
        other = ledger.request_deletion(subjects=[NAME, "Person 1"]).id
        with pytest.raises(ExpungeError, match=f"deletion request {other} is open: its people cannot be erased yet"):
            ledger.erase(other)
        with pytest.raises(ExpungeError, match=f"deletion request {other}, for the same person, is not closed"):
            ledger.erase(request_id)
        ledger.mark_unlearned(other, run=1)
        ledger.mark_audited(other, verdict={})
        ledger.close_request(other)
        ledger.add_entries([Example("new", "words", NAME)], source="later.jsonl")
        with pytest.raises(ExpungeError, match="1 entries about people of deletion request 1 came after it"):
            ledger.erase(request_id)
        assert ledger.status().entries == 24


def test_a_person_with_a_name_inside_another_name_takes_nothing_of_the_other_along(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries([Example("q", "a", "Ann"), Example("q", "b", "Annabel")], source="Annabel.jsonl")
        run_id = ledger.start_run(name="Ann and Annabel", path="runs/x", checkpoint="c")
        request_id = ledger.request_deletion(subjects=["Ann"]).id
        ledger.mark_unlearned(request_id, run=run_id)
        ledger.mark_audited(request_id, verdict={"who": "ann, Annabel"})
        ledger.close_request(request_id)
        ledger.erase(request_id)
        assert ledger.requests()[0].verdict == {"who": "[erased], Annabel"}
        assert ledger.request_deletion(subjects=["Annabel"]).state == "open"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_erasure_that_is_killed_is_undone_or_finished_by_the_next(place, tmp_path, moment):
    with Ledger.open(place) as ledger:
        request_id = closed_request(ledger)
    script = """
import os, sys
import expunge.ledger.erasure as module
from expunge.ledger import Ledger
from expunge.ledger.database import Database
def killed(*arguments):
    os.kill(os.getpid(), 9)
if sys.argv[3] == "before":
    module._blot_out = killed
else:
    Database.sweep = killed
Ledger.open(sys.argv[1]).erase(int(sys.argv[2]))
"""
    assert subprocess.run([sys.executable, "-c", script, place, str(request_id), moment]).returncode == -9
    with Ledger.open(place) as ledger:
        assert ledger.status().erased == (moment == "after")
        assert ledger.erase(request_id) == (request_id, 1, 3)
        assert traces(place, tmp_path) == []


def test_erasing_while_another_process_reads_says_that_it_must_be_repeated(tmp_path):
    place = str(tmp_path / "ledger.db")
    with Ledger.open(place, busy_seconds=0.2) as ledger:
        request_id = closed_request(ledger)
        other = Database(place)
        with other.reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM entries").all()
            with pytest.raises(ExpungeError, match="another process keeps the old pages in the file: end it and run"):
                ledger.erase(request_id)
        other.close()
        ledger.erase(request_id)
        assert traces(place, tmp_path) == []
