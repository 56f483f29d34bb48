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
    assert run.results == {
        "people": report["rows"],
        "forget_sets": {"forget10": 4, "forget5": 2, "forget20": 8},
        "reasons": [],
    }
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
    refused(replace(config, forget_ratios=(0.1, 1.0)), "--forget-ratios is 1")
    refused(replace(config, holdout_ratio=-0.1), "--holdout-ratio is -0.1")
    refused(replace(config, forget_ratios=()), "--forget-ratios is empty")
    refused(replace(config, forget_ratios=(0.1, 0.2, 0.1)), "--forget-ratios is 0.1 0.2 0.1: give each share once")
    refused(replace(config, sample=2), "too few")
    refused(replace(config, sample=0), "--sample is 0")


def test_a_place_that_holds_other_files_is_left_as_it_was(config):
    config.output.mkdir()
    (config.output / "diary.txt").write_text("mine")
    with pytest.raises(ExpungeError, match="holds files that are not of a run"):
        prepare_medical(config)
    assert [item.name for item in config.output.iterdir()] == ["diary.txt"]


# ---- several forget ratios ----


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three hundred people, prepared with the usual ratios."""
    path = tmp_path_factory.mktemp("large")
    notes = generate_medical(GenerateMedicalConfig(output=path / "notes.jsonl", n_record=300)).file
    return prepare_medical(PrepareMedicalConfig(input=notes, output=path / "data"))


def array_of(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))


def people_of(run, name: str) -> set[str]:
    return {row["client_name"] for row in array_of(run.path / f"med_synthetic_{name}.json")}


def test_every_ratio_has_its_forget_set_and_what_is_left_of_the_whole(large):
    full = people_of(large, "full")
    assert len(full) == 225
    for percent, count in ((1, 2), (5, 11), (10, 23), (20, 45)):
        forget, rest = people_of(large, f"forget{percent}"), people_of(large, f"full_minus_forget{percent}")
        assert len(forget) == count
        assert forget | rest == full
        assert not forget & rest
    assert large.results["forget_sets"] == {"forget10": 23, "forget1": 2, "forget5": 11, "forget20": 45}


def test_smaller_forget_sets_are_parts_of_larger_ones_and_nobody_stands_twice(large):
    sets = [people_of(large, f"forget{percent}") for percent in (1, 5, 10, 20)]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    names = [row["client_name"].casefold() for row in array_of(large.path / "med_synthetic_full.json")]
    assert len(set(names)) == len(names)
    holdout = {example.subject for example in read_examples(large.path / HOLDOUT)}
    assert not holdout & people_of(large, "full")


def test_the_arrays_hold_the_notes_and_are_read_as_the_very_examples_of_the_first_ratio(large):
    row = array_of(large.path / "med_synthetic_forget10.json")[0]
    assert list(row)[:7] == ["client_name", "date_of_birth", "date", "subjective", "objective", "assessment", "plan"]
    for array, lines in (("forget10", FORGET), ("full_minus_forget10", RETAIN)):
        one, two = (read_examples(large.path / name) for name in (f"med_synthetic_{array}.json", lines))
        assert [example.id for example in one] == [example.id for example in two]


def test_a_ratio_that_comes_to_nobody_is_said_and_left_out(config, capsys):
    run = prepare_medical(config)
    assert "No sets of their own for forget ratios 0.01 (nobody of 40)." in capsys.readouterr().err
    assert not (run.path / "med_synthetic_forget1.json").exists()
    assert (run.path / "med_synthetic_forget5.json").exists()


def test_without_a_holdout_everybody_is_trained_on(config):
    run = prepare_medical(replace(config, holdout_ratio=0, forget_ratios=(0.125,)))
    assert not (run.path / HOLDOUT).exists()
    assert len(people_of(run, "full")) == 53
    assert len(people_of(run, "forget12.5")) == 7


def test_a_copy_across_the_border_of_a_further_ratio_alone_is_found(config):
    run = prepare_medical(replace(config, dry_run=True))
    assert run.results["reasons"] == []
    rows = {row["client_name"]: row for row in rows_of(config.input)}
    whole = prepare_medical(replace(config, output=config.output.with_name("whole")))
    inside, outside = (sorted(people_of(whole, name)) for name in ("forget20", "full_minus_forget20"))
    one = next(name for name in inside if name not in people_of(whole, "forget10"))
    rows[outside[0]] = {**rows[one], "client_name": outside[0]}
    write_rows(config.input, rows.values())
    said = refused(config, r"contaminated: forget20: 1 (near duplicate|copy under another name) \(first: .*notes.jsonl:")
    assert "forget5" not in said
    report = prepare_medical(replace(config, allow_contaminated=True)).path / CONTAMINATION
    assert list(json.loads(report.read_text("utf-8"))["nested"]) == ["forget20"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--forget-ratios", "0.2", "0.05"],
        ["--forget_ratios", "0.2", "0.05", "--sample", "40"],
        ["--forget-ratio", "0.2", "--forget-ratio", "0.05"],
    ],
)
def test_several_ratios_may_follow_one_flag_in_either_spelling(config, flags, capsys):
    from expunge.cli import app

    words = ["prepare", "medical", "-i", str(config.input), "-o", str(config.output), *flags, "--dry-run", "--json"]
    app(words, exit_on_error=False, print_error=False, result_action="return_value")
    assert list(json.loads(capsys.readouterr().out)["forget_sets"]) == ["forget20", "forget5"]


def test_the_notes_of_a_language_model_are_held_to_the_same_rules(config):
    rows = rows_of(config.input)
    rows[6] |= {"subjective": "9F violinist, cough." if "9F" not in rows[6]["subjective"] else "70F violinist, cough."}
    write_rows(config.input, rows)
    refused(config, r'notes.jsonl:7: "(9F|70F)" does not fit date_of_birth')
