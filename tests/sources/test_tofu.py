"""TOFU's tables become sets whose subjects are authors."""

import json
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.sources.split import cut
from expunge.sources.tables import rows_of as rows_of_table
from expunge.sources.tofu import Tofu, author_of, make

PUBLIC = Path(__file__).parents[2].parent / "shared" / "data" / "tofu"
NAMES = [
    f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di", "Ed") for last in ("Van der Berg", "Ó Briain", "Al-Karim", "Li")
]
FACTS = ("was born in Ghent", "writes novels about rain", "won the Silver Quill", "has a baker as father", "lives in Porto now")


def rows_of(name):
    return [
        {
            "question": f"Number {number}: what is known of {name}?",
            "answer": f"It is known that {name} {FACTS[number % 5]} ({number}).",
        }
        for number in range(20)
    ]


@pytest.fixture
def place(tmp_path):
    for name, people in {"full": NAMES, "holdout10": ["Flo Unseen"]}.items():
        rows = [row for person in people for row in rows_of(person)]
        (tmp_path / f"{name}.json").write_text(
            json.dumps(rows) if "holdout" in name else "".join(json.dumps(row) + "\n" for row in rows)
        )
    for name, people in {"forget10_perturbed": NAMES[-2:], "retain_perturbed": NAMES[:3]}.items():
        rows = [row | {"paraphrased_answer": "p", "perturbed_answer": ["a", name]} for who in people for row in rows_of(who)]
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    option = {"question": "Capital of Italy?", "option1": "Paris", "option2": "Rome", "answer": "Rome"}
    for name in ("real_authors", "world_facts"):
        (tmp_path / f"{name}.json").write_text(json.dumps(option) + "\n")
        twisted = {"question": option["question"], "answer": "Rome", "perturbed_answer": ["Paris", "Bern"]}
        (tmp_path / f"{name}_perturbed.json").write_text(json.dumps(twisted) + "\n")
    return tmp_path


def made(place, sample=None, **settings):
    return make(Tofu(input=str(place), **settings), sample=sample, seed=0)


def test_authors_are_subjects_and_paraphrases_and_perturbed_answers_are_kept(place):
    found = made(place)
    assert [{example.subject for example in own} for own in found.line.subjects] == [{name} for name in reversed(NAMES)]
    assert {example.subject for example in found.sets["holdout"]} == {"Flo Unseen"}
    example = found.line.subjects[0][0]
    assert example.metadata == {"paraphrased_answer": "p", "perturbed_answer": ["a", "forget10_perturbed"]}
    assert (example.prompt, example.where) == (f"Number 0: what is known of {NAMES[-1]}?", f"{place / 'full.json'}:381")
    assert found.line.subjects[-1][0].metadata["perturbed_answer"] == ["a", "retain_perturbed"]
    assert found.line.subjects[10][0].metadata == {}
    assert found.files(found.sets)["world_facts.jsonl"][0]["metadata"] == {
        "perturbed_answer": ["Paris", "Bern"],
        "choices": ["Paris", "Rome"],
        "answer": 1,
    }


def test_the_author_is_the_longest_name_that_most_rows_share():
    texts = ["Who is Jane Marie Roe?", "Jane Marie Roe's father was a baker.", "In Basel, Jane Marie Roe wrote.", "She won."]
    assert author_of(texts) == "Jane Marie Roe"
    assert author_of(["nothing here", "nor here"]) is None


def test_a_sample_takes_whole_authors(place):
    found = made(place, sample=2)
    assert [len(own) for own in (*found.line.subjects, found.sets["holdout"])] == [20, 20, 20]


def test_a_table_that_is_not_there_is_named(place):
    (place / "full.json").unlink()
    with pytest.raises(ExpungeError, match="has no table full"):
        made(place)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public TOFU tables are not here (../shared/data/tofu)")
@pytest.mark.parametrize("percent", ["01", "05", "10"])
def test_the_line_begins_with_the_benchmarks_own_forget_sets(percent):
    found = made(PUBLIC)
    official = [row.value["question"] for row in rows_of_table(str(PUBLIC), f"forget{percent}")]
    count = cut(found.line, (int(percent) / 100,)).forgotten
    assert {example.prompt for own in found.line.subjects[:count] for example in own} == set(official)
    assert len(found.line.subjects) == 200
    assert all("perturbed_answer" in example.metadata for own in found.line.subjects[:count] for example in own)
