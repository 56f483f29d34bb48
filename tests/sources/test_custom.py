"""A table of one's own becomes sets."""

import csv

import pytest

from expunge.errors import ExpungeError
from expunge.sources.custom import Custom, make
from expunge.sources.split import cut

PEOPLE = [f"Person {letter}" for letter in "ABCDEFGHIJKLMNOPQRST"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "visits.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ("who", "asked", "said", "age"))
        writer.writeheader()
        for number, name in enumerate(PEOPLE):
            for day in ("Monday", "Friday"):
                row = {
                    "who": name,
                    "asked": f"What of {name} on {day}?",
                    "said": f"{name} lost {number} kilos by {day}.",
                    "age": 30 + number,
                }
                writer.writerow(row)
    return path


def made(table, sample=None, seed=42, **settings):
    columns = {"subject_column": "who", "prompt_column": "asked", "response_column": "said"}
    return make(Custom(input=str(table), **columns | settings), sample=sample, seed=seed)


def sets_of(found, *ratios):
    """Forget, retain and further sets, as prepare makes them of a line."""
    rows = [[example for own in part for example in own] for part in _parts(found.line, ratios or (0.1,))]
    return {"forget": rows[0], "retain": rows[1], **found.sets}


def _parts(line, ratios):
    count = cut(line, ratios).forgotten
    return line.subjects[:count], line.subjects[count:]


def subjects(examples):
    return {example.subject for example in examples}


def test_columns_become_examples_and_the_others_metadata(table):
    sets = sets_of(made(table, forget_where="who == 'Person C'"))
    first, second = sets["forget"]
    assert (first.prompt, first.response, first.subject) == (
        "What of Person C on Monday?",
        "Person C lost 2 kilos by Monday.",
        "Person C",
    )
    assert (first.metadata, second.where) == ({"age": "32"}, f"{table}:7")


def test_a_condition_takes_its_rows_and_the_rest_is_split_by_subject(table):
    sets = sets_of(made(table, forget_where="subject == 'Person C' or age >= 48", holdout_ratio=0.2))
    assert subjects(sets["forget"]) == {"Person C", "Person S", "Person T"}
    assert len(subjects(sets["holdout"])) == 3
    assert sum(map(len, sets.values())) == 40
    assert not subjects(sets["retain"]) & (subjects(sets["forget"]) | subjects(sets["holdout"]))


def test_the_holdout_may_be_a_condition_too(table):
    sets = sets_of(made(table, forget_where="age < 33", holdout_where="age > 46"))
    assert [len(subjects(sets[name])) for name in ("forget", "retain", "holdout")] == [3, 14, 3]


def test_without_a_condition_the_ratios_decide_who_of_the_trained_is_forgotten(table):
    found = made(table)
    assert found.line.forgotten is None
    assert [len(subjects(examples)) for examples in sets_of(found, 0.2).values()] == [3, 12, 5]


def test_plain_text_and_numbers_as_subjects_are_taken(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(f'{{"patient": {number}, "text": "Note {number}."}}\n' for number in range(8)))
    sets = sets_of(make(Custom(input=str(path), subject_column="patient"), sample=None, seed=1))
    assert all(example.prompt is None for example in sets["forget"])
    assert subjects([*sets["forget"], *sets["retain"], *sets["holdout"]]) == set("01234567")


def test_a_sample_is_the_first_rows(table):
    assert sum(map(len, sets_of(made(table, sample=20, forget_where="age < 32")).values())) == 20


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"subject_column": "whom"}, 'visits.csv:2: there is no column "whom": did you mean "who"?'),
        ({"prompt_column": None}, "visits.csv:2: there is no column prompt or question or instruction: name one of who, asked"),
        ({"text_column": "said"}, "--text-column stands in place of"),
        ({"forget_where": "who == 'Nobody'"}, "no row fits who == 'Nobody': check --forget-where: 40 rows were looked at"),
        ({"forget_where": "age > 'x' and ages > 3"}, 'there is no column "ages": did you mean "age"?'),
        ({"holdout_ratio": 0.0}, "--holdout-ratio is 0"),
    ],
)
def test_what_does_not_fit_the_table_is_refused_with_a_suggestion(table, settings, said):
    with pytest.raises(ExpungeError) as caught:
        made(table, **settings)
    assert said in str(caught.value)
