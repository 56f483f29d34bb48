import contextlib
import re
import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy as sa

from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.ledger import Ledger, TokenImpact, TopToken
from expunge.ledger.database import Database, downgrade, upgrade
from expunge.ledger.schema import SCHEMA_VERSION, Base, now
from expunge.ledger.validation import validate
from ledger_samples import make_examples, make_impact


def rows(place, table, columns="*"):
    database = Database(place)
    with database.reading() as connection:
        found = connection.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY 1").all()
    database.close()
    return [tuple(row) for row in found]


def record(ledger, run_id, examples, **options):
    with ledger.recorder(run_id, **options) as recorder:
        for i, example in enumerate(examples):
            recorder.mark_used_in_training(example.id, losses=[1.0 + i, 3.0 + i], token_impact=make_impact(i))


def test_the_migrations_make_exactly_the_tables_that_the_schema_declares(place):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    Ledger.open(place).close()
    database = Database(place)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == SCHEMA_VERSION
        for table in Base.metadata.sorted_tables:
            inspector = sa.inspect(connection)
            assert {key["name"] for key in inspector.get_foreign_keys(table.name)} == {
                key.name for key in table.foreign_key_constraints
            }
    database.close()


def test_the_tables_of_token_impacts_have_exactly_the_columns_promised_to_other_programs(place):
    Ledger.open(place).close()
    promised = {
        "training_metadata": "id entry_id run_id model_checkpoint_hash average_loss relative_loss used_in_training timestamp",
        "token_impacts": "id metadata_id total_tokens",
        "top_tokens": "id token_impact_id token_id position impact context_start context_end",
    }
    database = Database(place)
    with database.reading() as connection:
        for table, columns in promised.items():
            assert {column["name"] for column in sa.inspect(connection).get_columns(table)} == set(columns.split())
    database.close()


def test_migrations_go_down_and_up_again_on_a_ledger_with_data(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
    database = Database(place)
    with database.writing() as connection:
        downgrade(connection, "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
        upgrade(connection)
    database.close()
    with Ledger.open(place) as ledger:
        assert ledger.status().entries == 0


def test_entries_are_added_once_and_updated_when_their_content_changes(place, examples):
    with Ledger.open(place) as ledger:
        assert ledger.add_entries(examples, source="notes.jsonl") == (40, 0, 0)
        assert ledger.add_entries(examples, source="elsewhere.jsonl") == (0, 0, 40)
        changed = Example(examples[0].prompt, examples[0].response, examples[0].subject, {"visit": "mended"})
        assert ledger.add_entries([changed, *examples[1:]], source="notes.jsonl") == (0, 1, 39)
    found = {row[0]: row[1:] for row in rows(place, "entries", "id, source_key, revision, action")}
    assert found[changed.id] == ("notes.jsonl", 2, "updated")
    assert found[examples[1].id] == ("notes.jsonl:2", 1, "added")


def test_the_ledger_holds_no_word_of_the_training_text(tmp_path, examples):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"Person 3" in content
    assert b"Answer number" not in content
    assert b"What ails" not in content


def test_a_run_of_the_same_path_and_checkpoint_is_the_same_run(place, tmp_path):
    with Ledger.open(place) as ledger:
        first = ledger.start_run(name="finetune target", path=tmp_path / "target", checkpoint="abc")
        assert ledger.start_run(name="finetune target", path=tmp_path / "target", checkpoint="abc") == first
        assert ledger.start_run(name="finetune target", path=tmp_path / "target", checkpoint="def") != first
        assert ledger.status().runs == 2


def test_what_is_recorded_is_found_again_with_its_numbers(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        record(ledger, run_id, examples)
        status = ledger.status()
        assert (status.training_uses, status.token_impacts, status.top_tokens, status.coverage) == (40, 40, 240, 1.0)
        found = ledger.top_tokens(subject="Person 3", limit=100)
        expected = sorted(
            (token for i in (3, 13, 23, 33) for token in make_impact(i).top_tokens), key=lambda token: -token.impact
        )
        assert [TopToken(*token[5:10]) for token in found] == expected
        assert {(token.subject, token.run, token.run_id) for token in found} == {("Person 3", "finetune", run_id)}
        assert found[0].source_key in {f"notes.jsonl:{i + 1}" for i in (3, 13, 23, 33)}
        assert ledger.top_tokens(subject="  PERSON  3 ", limit=100) == found
        assert ledger.top_tokens(subject="Person 3", limit=2) == found[:2]
        assert ledger.top_tokens(subject="nobody") == []


def test_the_loss_of_an_entry_is_the_mean_over_its_tokens_and_relative_to_the_running_mean_of_the_run(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        record(ledger, run_id, examples[:3])
    found = rows(place, "training_metadata", "id, average_loss, relative_loss, model_checkpoint_hash")
    assert [row[1] for row in found] == [2.0, 3.0, 4.0]
    assert [row[2] for row in found] == pytest.approx([1.0, 3 / 2.5, 4 / 3.0])
    assert {row[3] for row in found} == {"abc"}


def test_tokens_are_found_by_their_id_across_people_the_most_impactful_first(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        record(ledger, run_id, examples)
        everything = [token for i in range(40) for token in make_impact(i).top_tokens]
        wanted = {everything[0].token_id, everything[100].token_id, everything[200].token_id}
        expected = sorted((token for token in everything if token.token_id in wanted), key=lambda token: -token.impact)
        assert [TopToken(*token[5:10]) for token in ledger.top_tokens(token_ids=wanted, limit=100)] == expected
        assert [TopToken(*token[5:10]) for token in ledger.top_tokens(token_ids=wanted, limit=2)] == expected[:2]
        assert ledger.top_tokens(token_ids=wanted, run_id=run_id + 1) == []


def test_the_training_use_behind_a_token_is_told_with_its_run_time_losses_and_model(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        before = now()
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        record(ledger, run_id, examples[:2])
        (token, *_) = ledger.top_tokens(subject="Person 1")
    assert (token.run, token.run_id, token.checkpoint) == ("finetune", run_id, "abc")
    assert (token.average_loss, token.relative_loss) == (3.0, pytest.approx(3 / 2.5))
    assert before <= token.timestamp <= now()


def test_the_tokens_of_many_entries_are_the_greatest_of_all_of_them(place):
    examples = make_examples(1100, people=1)
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        record(ledger, run_id, examples)
        some = [example.id for example in examples[50:]]
        expected = sorted((token for i in range(50, 1100) for token in make_impact(i).top_tokens), key=lambda t: -t.impact)
        every = ledger.top_tokens(entry_ids=some, limit=None)
        assert [token.impact for token in every] == [token.impact for token in expected]
        assert ledger.top_tokens(entry_ids=some, limit=7) == every[:7]
        assert ledger.top_tokens(entry_ids=[]) == []
        wanted = {expected[0].token_id}
        assert ledger.top_tokens(entry_ids=some, token_ids=wanted, limit=None) == [t for t in every if t.token_id in wanted]
        assert ledger.known_entries([*some, "f00"]) == (frozenset(some), 50)


def test_entries_are_found_by_tokens_that_stand_one_after_the_other_in_one_use(place, examples):
    def impact(*tokens):
        return [{"token_id": token, "position": position, "impact": 1.0} for position, token in tokens]

    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        first, second = (ledger.start_run(name="finetune", path=f"runs/{i}", checkpoint="abc") for i in range(2))
        with ledger.recorder(first) as recorder:
            recorder.mark_used_in_training(examples[0].id, token_impact=impact((4, 7), (5, 8), (6, 9)))
            recorder.mark_used_in_training(examples[1].id, token_impact=impact((4, 7), (6, 8)))
            recorder.mark_used_in_training(examples[2].id, token_impact=impact((4, 7)))
            recorder.mark_used_in_training(examples[3].id, token_impact=impact((5, 8), (6, 7)))
        with ledger.recorder(second) as recorder:
            # The other half of entry 2 was recorded in another run: that is no mention.
            recorder.mark_used_in_training(examples[2].id, token_impact=impact((5, 8)))
        ids = [example.id for example in examples]
        assert ledger.entries_with([(7, 8)]) == [ids[0]]
        assert ledger.entries_with([(8, 9)]) == [ids[0]]
        assert ledger.entries_with([(8, 7), (7, 8, 9)]) == sorted([ids[0], ids[3]])
        assert ledger.entries_with([(7,)]) == sorted(ids[:4])
        assert ledger.entries_with([(7, 9), (1, 2)]) == []


def test_an_entry_recorded_twice_in_a_run_counts_once_even_by_two_recorders(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as first, ledger.recorder(run_id) as second:
            for recorder in (first, second, first):
                recorder.mark_used_in_training(examples[0].id, losses=[2.0], token_impact=make_impact(0))
            assert examples[0].id in first
            assert examples[1].id not in first
            first.flush()
            second.mark_used_in_training(examples[1].id, losses=[2.0], token_impact=make_impact(1))
        status = ledger.status()
        assert (status.training_uses, status.token_impacts, status.top_tokens) == (2, 2, 12)
        other = ledger.start_run(name="unlearn", path="runs/unlearned", checkpoint="abc")
        record(ledger, other, examples[:1])
        assert ledger.status().training_uses == 3


def test_a_recorder_writes_what_it_has_when_its_block_ends_in_an_exception(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with contextlib.suppress(KeyboardInterrupt), ledger.recorder(run_id) as recorder:
            recorder.mark_used_in_training(examples[0].id, losses=[2.0])
            raise KeyboardInterrupt
        assert ledger.status().training_uses == 1


RECORDING = """
import os, sys
sys.path.insert(0, {tests!r})
from ledger_samples import make_examples, make_impact
from expunge.ledger import Ledger
place, run_id, stop, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with Ledger.open(place) as ledger:
    recorder = ledger.recorder(run_id, buffer_rows=100)
    for i, example in enumerate(make_examples(200)):
        if i >= start:
            recorder.mark_used_in_training(example.id, losses=[0.1 + i / 7, 0.3 + i / 11], token_impact=make_impact(i))
        if i == stop:
            os.kill(os.getpid(), 9)
    recorder.flush()
"""
EVERY_NUMBER = "id, entry_id, average_loss, relative_loss"


def recording(place, run_id, *, stop=-1, start=0):
    from pathlib import Path

    script = RECORDING.format(tests=str(Path(__file__).parents[1]))
    return subprocess.Popen([sys.executable, "-c", script, place, str(run_id), str(stop), str(start)])


def test_a_killed_and_repeated_run_ends_with_the_rows_of_an_undisturbed_one(place, tmp_path):
    undisturbed = str(tmp_path / "undisturbed.db")
    for where, stops in ((undisturbed, ()), (place, (57, 150))):
        with Ledger.open(where) as ledger:
            ledger.add_entries(make_examples(200), source="notes.jsonl")
            run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        for stop in stops:
            assert recording(where, run_id, stop=stop).wait() == -9
            database = Database(where)
            found = validate(database)
            database.close()
            # Whole transactions of 100 rows and more: the buffers that were full when it was killed.
            assert found.sound
            assert 0 < found.counts["training_metadata"] <= stop
        assert recording(where, run_id).wait() == 0
    assert rows(place, "training_metadata", EVERY_NUMBER.replace("id, ", "", 1)) == rows(
        undisturbed, "training_metadata", EVERY_NUMBER.replace("id, ", "", 1)
    )
    tokens = "metadata.entry_id, token_id, position, impact, context_start, context_end"
    joined = (
        "top_tokens JOIN token_impacts ON token_impacts.id = token_impact_id "
        "JOIN training_metadata AS metadata ON metadata.id = metadata_id"
    )
    assert sorted(rows(place, joined, tokens)) == sorted(rows(undisturbed, joined, tokens))


def test_four_processes_that_record_at_once_lose_nothing(place):
    with Ledger.open(place) as ledger:
        ledger.add_entries(make_examples(200), source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        other = ledger.start_run(name="finetune", path="runs/other", checkpoint="abc")
        # Two processes with the same entries for the same run, two that overlap on another.
        processes = [recording(place, run, start=start) for run, start in ((run_id, 0), (run_id, 0), (other, 0), (other, 100))]
        assert [process.wait() for process in processes] == [0, 0, 0, 0]
        status = ledger.status()
        assert (status.training_uses, status.token_impacts, status.top_tokens) == (400, 400, 2400)
    assert len(set(rows(place, "training_metadata", "entry_id, run_id"))) == 400


def test_four_processes_that_make_the_same_ledger_at_once_all_succeed(place):
    script = "import sys; from expunge.ledger import Ledger; print(Ledger.open(sys.argv[1]).status().entries)"
    processes = [subprocess.Popen([sys.executable, "-c", script, place], stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == [b"0\n"] * 4


def test_an_entry_that_was_never_added_is_named_and_nothing_half_is_written(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples[:1], source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with pytest.raises(ExpungeError, match=f"entry {examples[1].id} is not in the ledger: give its example to add_entries"):
            record(ledger, run_id, examples[:2])
        assert ledger.status().training_uses == 0
        with pytest.raises(ExpungeError, match="there is no run 77"):
            ledger.recorder(77)


TOKEN = {"token_id": 5, "position": 2, "impact": 0.5, "context_start": 0, "context_end": 4}


@pytest.mark.parametrize(
    "form",
    [
        TokenImpact(9, [TopToken(5, 2, 0.5, 0, 4)]),
        {"top_tokens": [TOKEN], "total_tokens": 9},
        {"top_tokens": [TopToken(5, 2, 0.5, 0, 4)], "total_tokens": 9},
        {"top_tokens": [{"token_id": 5, "position": 2, "impact": 0.5, "context": [0, 4]}], "total_tokens": 9},
        [TOKEN],
        [{"token_id": 5, "position": 2, "impact": 0.5, "context_window": (0, 4)}],
    ],
)
def test_every_form_of_token_impact_ends_as_the_same_row(tmp_path, examples, form):
    place = str(tmp_path / "ledger.db")
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as recorder:
            recorder.mark_used_in_training(examples[0].id, losses=[1.0], token_impact=form)
    assert rows(place, "top_tokens", "token_id, position, impact, context_start, context_end") == [(5, 2, 0.5, 0, 4)]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"critical_tokens": [], "impact_threshold": 0.5, "total_tokens": 9}, 'unknown field "critical_tokens"'),
        ({"top_tokens": []}, 'field "total_tokens" is missing'),
        ({"top_tokens": "abc", "total_tokens": 9}, 'field "top_tokens" must be a list, not str'),
        ({"top_tokens": [], "total_tokens": 9.5}, 'field "total_tokens" must be a whole number, not float'),
        ("abc", "it must be an object or a list, not str"),
        (7, "it must be an object or a list, not int"),
        ([[1, 2, 3]], "a top token must be an object, not list"),
        ([TOKEN | {"weight": 1}], 'unknown field "weight" of a top token'),
        ([{"token_id": 5, "position": 2}], 'field "impact" of a top token is missing'),
        ([TOKEN | {"impact": "high"}], 'field "impact" must be a number, not str'),
        ([TOKEN | {"impact": float("nan")}], "the impact at position 2 is nan"),
        ({"top_tokens": [TOKEN], "total_tokens": 3}, "position 2 with context 0 to 4 does not fit in 3 tokens"),
        ([TOKEN | {"position": 4}], "position 4 with context 0 to 4 does not fit"),
        ([TOKEN | {"position": -1, "context_start": -1}], "position -1 with context -1 to 4 does not fit"),
        ([{"token_id": 5, "position": 2, "impact": 0.5, "context": 3}], "the context window 3 is no pair"),
    ],
)
def test_every_other_form_of_token_impact_is_refused_by_name(tmp_path, examples, form, words):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as recorder, pytest.raises(ExpungeError, match=re.escape(words)) as caught:
            recorder.mark_used_in_training("e17", losses=[1.0], token_impact=form)
        assert "entry e17" in str(caught.value)
        assert ledger.status().training_uses == 0


def test_a_loss_that_is_no_number_is_refused(tmp_path, examples):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        with ledger.recorder(run_id) as recorder, pytest.raises(ExpungeError, match="the loss of entry e17 is nan"):
            recorder.mark_used_in_training("e17", losses=[1.0, float("nan")])


def test_a_deletion_request_goes_from_open_to_closed_and_says_each_step_only_once(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="unlearn", path="runs/unlearned", checkpoint="abc")
        filed = ledger.request_deletion(subjects=["Person 3", "person 4"], reason="asked by letter")
        assert (filed.state, filed.subjects, len(filed.entry_ids)) == ("open", ("Person 3", "person 4"), 8)
        assert set(filed.entry_ids) == {example.id for example in examples if example.subject in ("Person 3", "Person 4")}
        assert ledger.request_deletion(subjects=["PERSON 4", "Person 3"]) == filed
        for _ in range(2):
            assert ledger.mark_unlearned(filed.id, run=run_id).state == "unlearned"
        assert ledger.request_deletion(subjects=["Person 4", "Person 3"]).id == filed.id
        for _ in range(2):
            audited = ledger.mark_audited(filed.id, verdict={"forgotten": True, "rule": "≤ retrained"})
            assert (audited.state, audited.verdict) == ("audited", {"forgotten": True, "rule": "≤ retrained"})
        for _ in range(2):
            assert ledger.close_request(filed.id).state == "closed"
        assert ledger.mark_unlearned(filed.id, run=run_id).state == "closed"
        assert ledger.mark_audited(filed.id, verdict={"rule": "≤ retrained", "forgotten": True}).state == "closed"
        assert ledger.request_deletion(subjects=["Person 3", "Person 4"]).id != filed.id
        assert [request.state for request in ledger.requests()] == ["closed", "open"]
        assert ledger.status().requests == {"open": 1, "unlearned": 0, "audited": 0, "closed": 1}
    assert len(rows(place, "audits")) == 1


def test_a_request_whose_audit_failed_can_be_carried_out_and_judged_again(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        first, second = (ledger.start_run(name="unlearn", path=f"runs/{i}", checkpoint="abc") for i in range(2))
        request_id = ledger.request_deletion(subjects=["Person 3"]).id
        ledger.mark_unlearned(request_id, run=first)
        ledger.mark_audited(request_id, verdict={"forgotten": False})
        assert ledger.mark_unlearned(request_id, run=second).state == "unlearned"
        again = ledger.mark_audited(request_id, verdict={"forgotten": False})
        assert (again.state, again.run_id) == ("audited", second)
        assert ledger.mark_audited(request_id, verdict={"forgotten": True}).verdict == {"forgotten": True}
    assert len(rows(place, "audits")) == 3


def test_a_request_whose_latest_audit_failed_is_closed_only_with_a_reason_which_is_kept(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="unlearn", path="runs/unlearned", checkpoint="abc")
        request_id = ledger.request_deletion(subjects=["Person 3"]).id
        ledger.mark_unlearned(request_id, run=run_id)
        verdict = {"unlearned: forgotten": "fail", "unlearned: useful": "pass", "shipped: forgotten": "not provable"}
        ledger.mark_audited(request_id, verdict=verdict)
        for nothing in ("", "  "):
            with pytest.raises(
                ExpungeError, match=r"its latest audit failed \(unlearned: forgotten\): unlearn and audit again"
            ):
                ledger.close_request(request_id, accept_failed=nothing)
        assert ledger.requests()[0].state == "audited"
        closed = ledger.close_request(request_id, accept_failed=" the model was withdrawn ")
        assert (closed.state, closed.verdict) == (
            "closed",
            {**verdict, "accepted although failed": "the model was withdrawn"},
        )
        # The same audit told once more is nothing new.
        assert ledger.mark_audited(request_id, verdict=verdict) == closed
    assert len(rows(place, "audits")) == 2


def test_the_entries_of_a_closed_request_count_as_removed_until_they_are_trained_on_again(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="unlearn", path="runs/unlearned", checkpoint="abc")
        request_id = ledger.request_deletion(subjects=["Person 3"]).id
        ledger.mark_unlearned(request_id, run=run_id)
        ledger.mark_audited(request_id, verdict={"forgotten": "pass"})
        covered = set(ledger.close_request(request_id).entry_ids)
        actions = dict(rows(place, "entries", "id, action"))
        assert {entry_id for entry_id, action in actions.items() if action == "removed"} == covered
        assert ledger.add_entries(examples, source="notes.jsonl") == (0, 4, 36)
    assert {action for entry_id, action in rows(place, "entries", "id, action") if entry_id in covered} == {"updated"}


def test_a_request_is_covered_by_whoever_has_all_of_its_entries(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        person = ledger.request_deletion(subjects=["Person 3"])
        entry = ledger.request_deletion(entry_ids=[examples[0].id])
        assert ledger.requests_covered_by(person.entry_ids) == [person]
        assert ledger.requests_covered_by(example.id for example in examples) == [person, entry]
        assert ledger.requests_covered_by(person.entry_ids[1:]) == []


def test_a_preview_of_a_request_says_what_it_would_cover_and_files_nothing(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        found = ledger.preview_deletion(subjects=["PERSON 3"], entry_ids=[examples[0].id])
        assert (list(found.people.values()), found.request_id) == (["PERSON 3"], None)
        assert {(each.subject, each.source_key) for each in found.entries} == {
            ("Person 0", "notes.jsonl:1"),
            *(("Person 3", f"notes.jsonl:{line}") for line in (4, 14, 24, 34)),
        }
        assert ledger.requests() == []
        filed = ledger.request_deletion(subjects=["Person 3"], entry_ids=[examples[0].id])
        assert filed.entry_ids == tuple(each.entry_id for each in found.entries)
        assert ledger.preview_deletion(subjects=["Person 3"], entry_ids=[examples[0].id]).request_id == filed.id
        with pytest.raises(ExpungeError, match='nobody called "Persn 3"'):
            ledger.preview_deletion(subjects=["Persn 3"])


def test_steps_of_a_deletion_request_out_of_order_are_refused(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="unlearn", path="runs/unlearned", checkpoint="abc")
        request_id = ledger.request_deletion(entry_ids=[examples[0].id]).id
        with pytest.raises(ExpungeError, match="deletion request 1 is open: it cannot be audited: unlearn it first"):
            ledger.mark_audited(request_id, verdict={})
        with pytest.raises(ExpungeError, match="is open: it cannot be closed: unlearn and audit it first"):
            ledger.close_request(request_id)
        with pytest.raises(ExpungeError, match="there is no run 99"):
            ledger.mark_unlearned(request_id, run=99)
        ledger.mark_unlearned(request_id, run=run_id)
        with pytest.raises(ExpungeError, match="is unlearned: it cannot be closed: audit it first"):
            ledger.close_request(request_id)
        ledger.mark_audited(request_id, verdict={"forgotten": True})
        ledger.close_request(request_id)
        other = ledger.start_run(name="unlearn", path="runs/other", checkpoint="abc")
        with pytest.raises(ExpungeError, match="is closed: it cannot be unlearned again"):
            ledger.mark_unlearned(request_id, run=other)
        with pytest.raises(ExpungeError, match="is closed: it cannot be audited again"):
            ledger.mark_audited(request_id, verdict={"forgotten": False})
        with pytest.raises(ExpungeError, match="there is no deletion request 5"):
            ledger.close_request(5)


def test_a_request_for_nobody_or_somebody_unknown_is_refused_with_a_suggestion(place, examples):
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        with pytest.raises(ExpungeError, match="must name a subject or an entry"):
            ledger.request_deletion(reason="none")
        with pytest.raises(ExpungeError, match='nobody called "Persn 3" is in the ledger: did you mean "Person 3"'):
            ledger.request_deletion(subjects=["Person 4", "Persn 3"])
        with pytest.raises(ExpungeError, match="there is no entry f00"):
            ledger.request_deletion(entry_ids=["f00"])
        assert ledger.requests() == []


def test_foreign_keys_are_enforced(place):
    Ledger.open(place).close()
    database = Database(place)
    with pytest.raises(sa.exc.IntegrityError), database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO token_impacts (id, metadata_id, total_tokens) VALUES (1, 99, 3)")
    database.close()


def test_words_that_look_like_sql_are_only_words(place):
    sly = "Robert'); DROP TABLE entries; --"
    with Ledger.open(place) as ledger:
        ledger.add_entries([Example("q", "a", sly), Example("q", "b", "Ann")], source="x'); --")
        assert ledger.request_deletion(subjects=[sly], reason="'; --").subjects == (sly,)
        assert ledger.top_tokens(subject="' OR 1=1 --") == []
        assert ledger.status().entries == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("mysql://root@host/db", 'databases of the kind "mysql" are not supported'),
        ("nonsense://", 'databases of the kind "nonsense" are not supported'),
        ("postgresql://user:secret@localhost:1/none", "the database server refuses"),
        ("postgresql://user:secret@:port/none", "the database URL cannot be read"),
        ("sqlite://", "a ledger in memory would be gone at once"),
        (":memory:", "is no place for a ledger"),
    ],
)
def test_a_wrong_url_is_one_clear_line_without_the_password(wrong, words):
    with pytest.raises(ExpungeError) as caught:
        Ledger.open(wrong)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_place_that_holds_no_ledger_is_refused_and_left_alone(tmp_path):
    with pytest.raises(ExpungeError, match="is a directory"):
        Ledger.open(tmp_path)
    with pytest.raises(ExpungeError, match="there is no ledger here"):
        Ledger.open(tmp_path / "none.db", create=False)
    assert list(tmp_path.iterdir()) == []
    text = tmp_path / "notes.jsonl"
    text.write_text('{"prompt": "q"}\n' * 100)
    with pytest.raises(ExpungeError, match="is not a database"):
        Ledger.open(text)
    assert text.read_text() == '{"prompt": "q"}\n' * 100
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE bookmarks (id INTEGER)")
    foreign.close()
    with pytest.raises(ExpungeError, match=r"is a database of something else \(it has the table bookmarks\)"):
        Ledger.open(tmp_path / "foreign.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpungeError, match="cannot write here"):
        Ledger.open(tmp_path / "file" / "ledger.db")


def test_a_ledger_of_an_older_make_is_sent_to_repair(tmp_path):
    old = sqlite3.connect(tmp_path / "old.db")
    old.execute("CREATE TABLE token_impact (id INTEGER, metadata_id INTEGER)")
    old.close()
    with pytest.raises(ExpungeError, match="is a ledger of an older make: run `expunge ledger repair"):
        Ledger.open(tmp_path / "old.db")


def test_a_ledger_of_a_newer_version_is_refused(place):
    Ledger.open(place).close()
    database = Database(place)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    database.close()
    with pytest.raises(ExpungeError, match=r"was made by a newer expunge \(schema 0999, this one knows .*\): upgrade expunge"):
        Ledger.open(place)


def test_a_ledger_that_another_process_holds_is_reported_as_locked_after_the_wait(tmp_path, examples):
    place = tmp_path / "ledger.db"
    with Ledger.open(place, busy_seconds=0.2) as ledger:
        holder = sqlite3.connect(place, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(ExpungeError, match=r"ledger.db: the ledger is locked by another process: wait"):
            ledger.add_entries(examples, source="notes.jsonl")
        assert ledger.status().entries == 0
        holder.execute("ROLLBACK")
        holder.close()
        ledger.add_entries(examples, source="notes.jsonl")
        assert ledger.status().entries == 40


def test_a_read_only_ledger_can_be_read_and_says_so_when_written(tmp_path, examples):
    place = tmp_path / "ledger.db"
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        sa.event.listen(ledger._database.engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON"))
        ledger._database.engine.dispose()
        assert ledger.status().entries == 40
        with pytest.raises(ExpungeError, match="the ledger is read-only: make the file"):
            ledger.start_run(name="x", path="y", checkpoint="z")
        with pytest.raises(ExpungeError, match="the ledger is read-only"):
            ledger.refuse_read_only()


def test_a_full_disk_is_one_clear_line_and_leaves_the_ledger_as_it_was(tmp_path, examples):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc")
        full = "PRAGMA max_page_count = 60"
        sa.event.listen(ledger._database.engine, "connect", lambda connection, _: connection.execute(full))
        ledger._database.engine.dispose()
        recorder = ledger.recorder(run_id)
        for i, example in enumerate(examples):
            recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=make_impact(i, tokens=400, total=2000))
        with pytest.raises(ExpungeError, match="the disk is full: free some space"):
            recorder.flush()
        status = ledger.status()
        assert (status.entries, status.training_uses, status.top_tokens) == (40, 0, 0)
