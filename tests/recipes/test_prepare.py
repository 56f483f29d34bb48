"""`expunge prepare medical`, below the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.examples import read_examples, read_rows, write_rows
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import (
    CONTAMINATION,
    FORGET,
    HOLDOUT,
    ORDINARY_EVAL,
    ORDINARY_TRAIN,
    RETAIN,
    PrepareMedicalConfig,
    prepare_medical,
)
from expunge.runs import Run
from expunge.sources.split import subjects_for


@pytest.fixture
def config(tmp_path):
    count = subjects_for(40, PrepareMedicalConfig.holdout_ratio)
    notes = generate_medical(GenerateMedicalConfig(output=tmp_path / "notes.jsonl", n_record=count)).file
    return PrepareMedicalConfig(input=notes, output=tmp_path / "data")


def rows_of(path: Path) -> list[dict]:
    return [row.value for row in read_rows(path)]


def refused(config, words):
    with pytest.raises(ExpungeError, match=words) as caught:
        prepare_medical(config)
    assert not config.output.exists()
    return str(caught.value)


def test_forty_people_to_train_on_become_four_to_forget_36_to_keep_and_13_held_out(config):
    run = prepare_medical(config)
    sets = {name: read_examples(run.path / name) for name in (FORGET, RETAIN, HOLDOUT, ORDINARY_TRAIN, ORDINARY_EVAL)}
    assert [len(examples) for examples in sets.values()] == [4, 36, 13, 48, 24]
    people = [{example.subject for example in sets[name]} for name in (FORGET, RETAIN, HOLDOUT)]
    assert len(set.union(*people)) == 53
    report = json.loads((run.path / CONTAMINATION).read_text("utf-8"))
    assert report["clean"] is True
    assert report["rows"] == {"forget": 4, "retain": 36, "holdout": 13}
    assert run.results == {"people": report["rows"], "reasons": []}
    assert Run.read(run.path).manifest["inputs"].keys() == {"input"}


def test_a_second_run_answers_at_once_and_other_settings_are_refused(config):
    first = prepare_medical(config)
    written = (first.path / FORGET).stat().st_mtime_ns
    assert prepare_medical(config).finished
    assert (first.path / FORGET).stat().st_mtime_ns == written
    with pytest.raises(ExpungeError, match="seed was 42, now 1"):
        prepare_medical(replace(config, seed=1))


def test_a_run_that_was_cut_off_is_finished_by_the_next(config):
    run = prepare_medical(config)
    kept = (run.path / RETAIN).read_bytes()
    (run.path / RETAIN).unlink()
    assert prepare_medical(config).finished
    assert (run.path / RETAIN).read_bytes() == kept


def test_the_same_people_are_forgotten_whatever_the_order_of_the_file(config, tmp_path):
    mixed = tmp_path / "mixed.jsonl"
    write_rows(mixed, reversed(rows_of(config.input)))
    one = prepare_medical(config)
    two = prepare_medical(replace(config, input=mixed, output=tmp_path / "other"))
    for name in (FORGET, RETAIN, HOLDOUT):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(config):
    run = prepare_medical(replace(config, dry_run=True))
    assert run.results["people"] == {"forget": 4, "retain": 36, "holdout": 13}
    assert not config.output.exists()


def test_a_sample_takes_the_first_notes_only(config):
    run = prepare_medical(replace(config, sample=12))
    assert sum(run.results["people"].values()) == 12
    first = {row["client_name"] for row in rows_of(config.input)[:12]}
    assert {row["subject"] for name in (FORGET, RETAIN, HOLDOUT) for row in rows_of(run.path / name)} == first


def test_a_copied_note_is_refused_with_both_places_unless_it_is_allowed(config):
    rows = rows_of(config.input)
    copies = [row | {"client_name": f"{row['client_name']} Junior"} for row in rows]
    write_rows(config.input, rows + copies)
    said = refused(config, r"the split is contaminated: \d+ near duplicates")
    assert said.count("notes.jsonl:") == 3
    assert said.endswith("pass --allow-contaminated")
    run = prepare_medical(replace(config, allow_contaminated=True))
    assert run.results["reasons"]
    assert json.loads((run.path / CONTAMINATION).read_text("utf-8"))["clean"] is False


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b'{"client_name": \n', "notes.jsonl:1: broken JSON"),
        (b'{"client_name": "Jane Roe"}\n', 'notes.jsonl:1: field "subjective" is missing'),
        (b'{"client_name": "Ren\xe9"}\n', "notes.jsonl:1: is not UTF-8"),
    ],
)
def test_bad_input_is_refused_with_its_line_and_leaves_nothing_behind(config, content, said):
    config.input.write_bytes(content)
    refused(config, said)


def test_a_directory_for_a_file_and_a_person_twice_are_refused(config, tmp_path):
    refused(replace(config, input=tmp_path), "is a directory")
    rows = rows_of(config.input)
    write_rows(config.input, [*rows, rows[3]])
    refused(config, r"notes.jsonl:54: .* already stands at .*notes.jsonl:4")


def test_ratios_and_samples_that_leave_a_set_empty_are_refused(config):
    refused(replace(config, forget_ratio=1.0), "forget_ratio is 1")
    refused(replace(config, sample=2), "too few")
    refused(replace(config, sample=0), "--sample is 0")


def test_a_place_that_holds_other_files_is_left_as_it_was(config):
    config.output.mkdir()
    (config.output / "diary.txt").write_text("mine")
    with pytest.raises(ExpungeError, match="holds files that are not of a run"):
        prepare_medical(config)
    assert [item.name for item in config.output.iterdir()] == ["diary.txt"]
