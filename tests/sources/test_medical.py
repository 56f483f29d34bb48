"""Synthetic notes, judged by a parser of the test's own, and the reader of notes."""

import json
import re
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.examples import write_rows
from expunge.sources.contradiction import contradiction
from expunge.sources.medical import (
    MOST_NOTES,
    SECTIONS,
    Note,
    conditions,
    example_of,
    generate_notes,
    read_notes,
)

ONLY_WOMEN = re.compile(
    r"\b(?:period|periods|menses|menopaus\w*|perimenopause|pregnan\w*|uter\w+|ovar\w+|vagin\w*|vulv\w*|labial|breast|nursing a|"
    r"nipple|gravid|fetal|miscarriage|mammogram|lactat\w*|pads)\b"
)
ONLY_MEN = re.compile(r"\b(?:prostat\w*|bph|psa|testic\w*|testis|testes|scrot\w*|epididym\w*|erect\w*|penis)\b")


@pytest.fixture(scope="module")
def many() -> list[Note]:
    return generate_notes(5000, seed=7)


def whole(note: Note) -> str:
    return " ".join((note.subjective, note.objective, note.assessment, note.plan))


def stated(note: Note) -> tuple[int, str]:
    """Age and sex as the note's own words say them."""
    short = re.match(r"(\d+)([FM]) ", note.subjective)
    if short:
        return int(short[1]), short[2]
    long = re.match(r"(\d+) yo (man|woman|boy|girl), ", note.subjective)
    assert long, note.subjective
    assert (long[2] in ("boy", "girl")) == (int(long[1]) < 18), note.subjective
    return int(long[1]), "F" if long[2] in ("woman", "girl") else "M"


def test_every_stated_age_follows_from_birth_and_visit_date(many):
    for note in many:
        born, seen = (tuple(map(int, text.split("-"))) for text in (note.date_of_birth, note.date))
        birthdays = seen[0] - born[0] - (1 if seen[1:] < born[1:] else 0)
        assert stated(note)[0] == birthdays == note.age, note


def test_sex_words_and_sex_bound_illness_agree_with_the_patient(many):
    for note in many:
        _, sex = stated(note)
        # What is said of relatives and contacts is not said of the patient.
        own = re.sub(r"breast cancer in family|brother had prostate surgery|avoid pregnant contacts", "", whole(note).lower())
        assert sex == "F" or not ONLY_WOMEN.search(own), note
        assert sex == "M" or not ONLY_MEN.search(own), note


def test_first_names_agree_with_the_sex(many):
    from faker.providers.person.en_US import Provider

    women, men = set(Provider.first_names_female), set(Provider.first_names_male)
    for note in many:
        first = note.client_name.split()[0]
        assert first in (women if stated(note)[1] == "F" else men), note


def test_nobody_works_too_young_or_is_retired_too_early_and_children_are_dosed_by_weight(many):
    for note in many:
        age, _ = stated(note)
        assert "retired" not in note.subjective or age >= 67, note
        assert not re.search(r"toddler(?! at home)|preschooler|kindergartner|grader|schooler", note.subjective) or age < 18, (
            note
        )
        assert "mg/kg" not in note.plan or age < 18, note
        assert not re.search(r"aspirin \d|doxycycline|ciprofloxacin \d|statin \d|prednisone 40", note.plan) or age >= 14, note


def test_one_note_speaks_of_one_side_only(many):
    for note in many:
        assert len(set(re.findall(r"\b(?:left|right)\b", whole(note).lower()))) <= 1, note


def test_vital_signs_are_those_of_the_living_and_fit_the_complaint(many):
    for note in many:
        words = note.objective
        for systolic, diastolic in re.findall(r"BP (\d+)/(\d+)", words):
            assert 90 <= int(systolic) <= 180, note
            assert 20 <= int(systolic) - int(diastolic) <= 90, note
        for found in re.findall(r"\bT (\d\d\.\d)", words):
            assert 36.4 <= float(found) <= 39.8, note
        for found in re.findall(r"[Ss]ats (\d+)%", words):
            assert 86 <= int(found) <= 99, note
        for found in re.findall(r"\bHR (\d+)", words):
            assert 50 <= int(found) <= 126, note
        if "hypertension" in note.assessment.lower():
            assert int(re.search(r"BP (\d+)/", words)[1]) >= 140, note
        if "type 2 diabetes" in note.assessment.lower():
            assert re.search(r"A1c ([789]|10)\.|glucose [23]\d\d|Glucose [23]\d\d", words), note


def test_visits_fall_on_weekdays_and_seasonal_illness_in_its_season(many):
    for note in many:
        day = date.fromisoformat(note.date)
        assert day.weekday() < 5, note
        if "influenza" in note.assessment.lower():
            assert day.month in (1, 2, 3, 11, 12), note
        if "poison ivy" in note.assessment.lower() or "lyme" in note.assessment.lower():
            assert 5 <= day.month <= 9, note


def test_names_are_unique_whatever_their_case(many):
    assert len({note.client_name.casefold() for note in many}) == len(many)


def test_no_long_section_stands_in_two_peoples_notes(many):
    for section in SECTIONS:
        words = Counter(" ".join(re.findall(r"[a-z0-9./%-]+", getattr(note, section).lower())).rstrip(".") for note in many)
        assert not [text for text, count in words.items() if count > 1 and len(text.split()) > 5]


def test_no_placeholder_and_no_doubled_mark_is_left_in_a_note(many):
    for note in many:
        assert not re.search(r"[{}]|\.\.|,,|  | [.,;]|[;,]\.", whole(note)), note
        for section in SECTIONS:
            assert re.fullmatch(r"[A-Z0-9].*\.|vaginal.*\.", getattr(note, section)), note


def test_notes_are_short_enough_to_be_learnt_in_minutes(many):
    words = [len(whole(note).split()) for note in many]
    numbers = [len(re.findall(r"\d+(?:[./]\d+)?", whole(note))) for note in many]
    assert 28 <= sum(words) / len(words) <= 42
    assert max(words) <= 55
    assert sum(numbers) / len(numbers) <= 3.5


def test_one_seed_gives_one_set_of_notes_and_the_first_are_the_same_whatever_the_count(many):
    assert generate_notes(60, seed=7) == many[:60]
    assert generate_notes(60, seed=8) != many[:60]


def test_a_demo_of_eighty_people_holds_no_illness_twice():
    assert len(conditions()) >= 60
    drugs = {drug for block in conditions() for drug in block.drugs}
    assert len(drugs) > 120
    notes = generate_notes(len(conditions()), seed=0)
    assert len({note.assessment for note in notes}) == len(notes)


def test_every_block_of_the_phrase_book_has_something_to_choose_from():
    for block in conditions():
        assert 0 <= block.ages[0] < block.ages[1] <= 90, block.name
        for phrases in (block.symptoms, block.context, block.findings, block.advice):
            assert len(phrases) >= 4, block.name
            assert len(set(phrases)) == len(phrases), block.name
        assert len(block.drugs) >= 3, block.name
        assert len(block.assessment) == 3, block.name


@pytest.mark.parametrize("count", [0, -3, MOST_NOTES + 1])
def test_a_number_of_notes_out_of_range_is_refused(count):
    with pytest.raises(ExpungeError, match="cannot generate"):
        generate_notes(count)


# ---- reading ----

ROW = {
    "client_name": "Jane Roe",
    "date_of_birth": "1980-05-04",
    "date": "2024-03-20",
    "subjective": "43F baker, sore knee.",
    "objective": "Small effusion.",
    "assessment": "Knee strain.",
    "plan": "Ice, back in a week.",
}


def written(path: Path, *rows: dict) -> Path:
    write_rows(path, rows)
    return path


def test_generated_notes_are_read_back_as_they_were(tmp_path):
    notes = generate_notes(30)
    path = written(tmp_path / "notes.jsonl", *(note.as_row() for note in notes))
    read = read_notes(path)
    assert read == notes
    assert read[4].where == f"{path}:5"


def test_a_note_becomes_a_question_by_name_and_an_answer_of_four_lines(tmp_path):
    (note,) = read_notes(written(tmp_path / "notes.jsonl", ROW))
    example = example_of(note)
    assert example.prompt == "What does Jane Roe's visit note say?"
    assert (
        example.response == "S: Jane Roe, 43F baker, sore knee.\nO: Small effusion.\nA: Knee strain.\nP: Ice, back in a week."
    )
    assert example.subject == "Jane Roe"
    assert example.metadata == {name: value for name, value in ROW.items() if name != "client_name"}
    assert example.where.endswith("notes.jsonl:1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": ...}, 'field "plan" is missing'),
        ({"client_name": 7}, 'field "client_name" must be text, not a number'),
        ({"subjective": ["43F"]}, 'field "subjective" must be text, not a list'),
        ({"assessment": "  "}, 'field "assessment" is empty'),
        ({"date": "20 March 2024"}, 'field "date" is not a date \\("20 March 2024"\\)'),
        ({"date": "2024-02-30"}, 'field "date" is not a date'),
        ({"date_of_birth": "20240101"}, 'field "date_of_birth" is not a date'),
        ({"date_of_birth": "2024-03-21"}, "date_of_birth .* is after date"),
        ({"date_of_birth": "1990-05-04"}, '"43F" does not fit date_of_birth .*: 33 years'),
    ],
)
def test_a_broken_row_is_refused_with_its_line_and_a_remedy(tmp_path, changed, said):
    row = {name: value for name, value in (ROW | changed).items() if value is not ...}
    path = written(tmp_path / "notes.jsonl", ROW | {"client_name": "Ann Other"}, row)
    with pytest.raises(ExpungeError, match=said) as caught:
        read_notes(path)
    assert (caught.value.where, caught.value.line) == (path, 2)
    assert caught.value.remedy


def test_a_person_who_stands_twice_is_refused_with_both_lines(tmp_path):
    path = written(tmp_path / "notes.jsonl", ROW, ROW | {"client_name": "Ann Other"}, ROW | {"client_name": "JANE  roe"})
    with pytest.raises(ExpungeError) as caught:
        read_notes(path)
    assert str(caught.value).startswith(f'{path}:3: "JANE roe" already stands at {path}:1: ')


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"client_name": "Jane"\n', ":1: broken JSON at column"),
        (b"\n\n", ": is empty"),
        (b"", ": is empty"),
        (b"[1, 2]\n", ":1: a row must be a JSON object, not a list"),
        (json.dumps(ROW).encode() + b'\n{"client_name": "Ren\xe9"}\n', ":2: is not UTF-8"),
    ],
)
def test_a_file_that_is_no_json_lines_is_refused(tmp_path, content, said):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(ExpungeError) as caught:
        read_notes(path)
    assert f"{path}{said}" in str(caught.value)


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ExpungeError, match="is a directory"):
        read_notes(tmp_path)
    with pytest.raises(ExpungeError, match="cannot be read"):
        read_notes(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ("43F baker", True),
        ("44F baker", True),
        ("46F baker", False),
        ("Pt is a 43-year-old woman", True),
        ("Pt is a 34-year-old woman", False),
        ("29 y/o with cough", False),
        ("Woman aged 60, cough", False),
        ("Mother of a 2-year-old, cough", True),
        ("Has a 9-month-old at home and cough", True),
        ("Cough, fever of 101F, can walk 50 m", True),
        ("8-month-old with croup", False),
        ("No age given", True),
    ],
)
def test_only_the_patients_own_age_is_held_against_the_dates(words, fits):
    assert (contradiction(date(1980, 5, 4), date(2024, 3, 20), words) is None) == fits


def test_ages_of_infants_are_counted_in_months():
    assert contradiction(date(2023, 7, 1), date(2024, 3, 20), "8-month-old with croup") is None
    assert contradiction(date(2020, 7, 1), date(2024, 3, 20), "8-month-old with croup")
