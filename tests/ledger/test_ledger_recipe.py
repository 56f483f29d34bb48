import json
import subprocess
import sys
from dataclasses import replace

import pytest

from expunge.errors import ExpungeError
from expunge.examples import Example, write_examples
from expunge.ledger import Ledger
from expunge.recipes.ledger import (
    LedgerEraseConfig,
    LedgerExportConfig,
    LedgerImportConfig,
    LedgerInitConfig,
    LedgerRepairConfig,
    LedgerRequestConfig,
    LedgerStatusConfig,
    LedgerValidateConfig,
    erase,
    export,
    import_,
    init,
    repair,
    request,
    status,
    validate,
)
from expunge.recipes.ledger_find import LedgerFindConfig, find
from ledger_samples import make_examples, make_impact
from tiny_models import write_model


@pytest.fixture
def database(tmp_path):
    place = str(tmp_path / "ledger.db")
    examples = make_examples(40)
    with Ledger.open(place) as ledger:
        ledger.add_entries(examples, source="notes.jsonl")
        run_id = ledger.start_run(name="finetune", path="runs/target", checkpoint="abc", impact_estimator="loss")
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


@pytest.fixture
def data(tmp_path):
    """What the ledger was made of, but for one example, and one example that it does not know."""
    write_examples(tmp_path / "notes.jsonl", [*make_examples(39), Example("Who?", "Answer number 7.", "Stranger")])
    return tmp_path / "notes.jsonl"


def test_a_request_by_words_covers_the_entries_that_contain_them_and_says_what_was_not_looked_at(database, data, capsys):
    asked = LedgerRequestConfig(database=database, text=("answer NUMBER 7", "number 12"), data_file=(data,), dry_run=True)
    preview = request(asked)
    assert (preview.subjects, preview.request) == ((), None)
    assert [(each.subject, each.source) for each in sorted(preview.entries, key=lambda each: each.source)] == [
        ("Person 2", "notes.jsonl:13"),
        ("Person 7", "notes.jsonl:8"),
    ]
    assert "1 entries of the ledger are in none of these files, and were not looked at." in capsys.readouterr().err
    assert status(LedgerStatusConfig(database=database))[1] == []
    filed = request(replace(asked, dry_run=False))
    assert set(filed.entry_ids) == {each.entry_id for each in preview.entries}
    assert request(asked).request == filed.id


def test_a_request_by_concept_covers_what_its_words_or_the_metadata_say(database, data, tmp_path):
    (tmp_path / "concepts.toml").write_text('seventh = ["number 7", "17"]\n')
    asked = LedgerRequestConfig(database=database, concept=("seventh",), concept_file=tmp_path / "concepts.toml")
    filed = request(replace(asked, data_file=(data,)))
    assert set(filed.entry_ids) == {make_examples(40)[i].id for i in (7, 17)}
    with pytest.raises(ExpungeError, match="name the --data-file trained on"):
        request(asked)
    with pytest.raises(ExpungeError, match='no entry of the ledger contains "zebra"'):
        request(LedgerRequestConfig(database=database, text=("zebra",), data_file=(data,)))
    with pytest.raises(ExpungeError, match="say for what with --text or --concept"):
        request(LedgerRequestConfig(database=database, data_file=(data,)))
    with pytest.raises(ExpungeError, match="say with --concept which one is meant"):
        request(replace(asked, concept=()))
    with pytest.raises(ExpungeError, match="--text is empty"):
        request(LedgerRequestConfig(database=database, text=(" ",), data_file=(data,)))


def test_find_by_words_in_the_data_shows_the_tokens_of_the_entries_that_contain_them(database, data):
    found = find(LedgerFindConfig(database=database, text=("number 7",), data_file=(data,)))
    expected = sorted(make_impact(7).top_tokens, key=lambda token: -token.impact)
    assert [(token.token_id, token.impact) for token in found] == [(token.token_id, token.impact) for token in expected]
    assert {(token.subject, token.run, token.average_loss) for token in found} == {("Person 7", "finetune", 1.0)}
    assert find(LedgerFindConfig(database=database, concept=("x=number 7",), data_file=(data,), subject="Person 8")) == []
    one = LedgerFindConfig(database=database, concept=("x=number 7",), data_file=(data,), token_id=(expected[2].token_id,))
    assert [token.impact for token in find(one)] == [expected[2].impact]
    with pytest.raises(ExpungeError, match="words cannot be told from tokens"):
        find(LedgerFindConfig(database=database, text=("number 7",)))


def test_find_answers_by_person_by_token_and_by_entry(database):
    top = find(LedgerFindConfig(database=database, limit=1))[0]
    assert top.estimator == "loss"
    assert find(LedgerFindConfig(database=database, subject=top.subject))[0] == top
    assert find(LedgerFindConfig(database=database, entry=top.entry_id))[0] == top
    assert find(LedgerFindConfig(database=database, token_id=(top.token_id,)))[0] == top
    with pytest.raises(ExpungeError, match="--limit 0 finds nothing"):
        find(LedgerFindConfig(database=database, limit=0))


def test_looking_into_a_ledger_that_is_not_there_makes_none(tmp_path):
    with pytest.raises(ExpungeError, match="there is no ledger here"):
        status(LedgerStatusConfig(database=str(tmp_path / "none.db")))
    assert list(tmp_path.iterdir()) == []


def test_words_need_the_model_whose_tokens_they_are(database):
    with pytest.raises(ExpungeError, match="words cannot be told from tokens without their tokenizer: name the --model"):
        find(LedgerFindConfig(database=database, token=("asthma",)))


def test_tokens_are_shown_as_words_in_the_context_they_were_trained_in(tmp_path, monkeypatch):
    from expunge.batching import tokenize
    from expunge.models.loading import load_tokenizer

    place = str(tmp_path / "ledger.db")
    example = Example("Who has asthma?", "It is Jane who has asthma since May.", "Jane")
    write_examples(tmp_path / "train.jsonl", [example])
    tokenizer = load_tokenizer("embedded")
    # Loading it once is enough: that is most of what this test would do.
    monkeypatch.setattr("expunge.models.loading.load_tokenizer", lambda model: tokenizer)
    (sequence,) = tokenize([example], tokenizer, max_seq_length=512)
    position = max(i for i, token in enumerate(sequence.tokens) if tokenizer.decode([token]) == " asthma")
    top = {"token_id": sequence.tokens[position], "position": position, "impact": 0.5, "context": [position - 3, position + 2]}
    with Ledger.open(place) as ledger:
        ledger.add_entries([example], source="train.jsonl")
        with ledger.recorder(ledger.start_run(name="x", path="y", checkpoint="z")) as recorder:
            recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=[top])
    asked = LedgerFindConfig(database=place, model="embedded", token=("asthma",), data_file=(tmp_path / "train.jsonl",))
    (found,) = find(asked)
    assert (found.token, found.context) == (" asthma", " Jane who has asthma since")
    (bare,) = find(LedgerFindConfig(database=place, model="embedded"))
    assert (bare.token, bare.context) == (" asthma", None)
    # Of " asthma since" the second token was not recorded; of " asthma" alone all there is.
    assert [token.impact for token in find(LedgerFindConfig(database=place, model="embedded", text=("Asthma",)))] == [0.5]
    assert find(LedgerFindConfig(database=place, model="embedded", concept=("x=asthma since",))) == []
    with pytest.raises(ExpungeError, match="is no single token of this model"):
        find(LedgerFindConfig(database=place, model="embedded", token=("Zenobia Quux",)))


def test_a_run_that_is_still_there_gives_its_tokenizer_and_names_its_data(tmp_path):
    from expunge.batching import tokenize
    from expunge.models.loading import load_tokenizer

    tokenizer = load_tokenizer(str(write_model(tmp_path / "run" / "model")))
    example = Example("Who has asthma?", "It is Jane who has asthma since May.", "Jane")
    write_examples(tmp_path / "train.jsonl", [example])
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"inputs": {str(tmp_path / "train.jsonl"): "", "model": ""}}))
    (sequence,) = tokenize([example], tokenizer, max_seq_length=512)
    top = {
        "token_id": sequence.tokens[-2],
        "position": len(sequence.tokens) - 2,
        "impact": 0.5,
        "context": [60, len(sequence.tokens)],
    }
    place = str(tmp_path / "ledger.db")
    with Ledger.open(place) as ledger:
        ledger.add_entries([example], source="train.jsonl")
        for path in ("gone", "run"):
            with ledger.recorder(ledger.start_run(name=path, path=tmp_path / path, checkpoint="z")) as recorder:
                recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=[top])
    shown = {token.run: (token.token, token.context) for token in find(LedgerFindConfig(database=place))}
    said = tokenizer.decode([sequence.tokens[-2]]), tokenizer.decode(list(sequence.tokens[60:]))
    assert shown == {"gone": (None, None), "run": said}


def test_a_ledger_is_made_checked_moved_and_cleaned_by_the_commands(database, tmp_path):
    assert init(LedgerInitConfig(database=str(tmp_path / "new.db"))).entries == 0
    assert validate(LedgerValidateConfig(database=database, export=True, output=tmp_path / "impacts.json")).sound
    assert (tmp_path / "impacts.json").stat().st_size > 1000
    assert repair(LedgerRepairConfig(database=database)).steps == []
    with Ledger.open(database) as ledger:
        request_id = ledger.request_deletion(subjects=["Person 3"]).id
        ledger.mark_unlearned(request_id, run=1)
        ledger.mark_audited(request_id, verdict={"forgotten": True})
        ledger.close_request(request_id)
    assert erase(LedgerEraseConfig(database=database, request=request_id)) == (request_id, 1, 4)
    with pytest.raises(ExpungeError, match='"Person 3" was erased from the ledger on 20'):
        find(LedgerFindConfig(database=database, subject="Person 3"))
    rows = export(LedgerExportConfig(database=database, output=tmp_path / "ledger.jsonl"))
    assert import_(LedgerImportConfig(database=str(tmp_path / "new.db"), file=tmp_path / "ledger.jsonl")) == rows
