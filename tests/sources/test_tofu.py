"""TOFU's tables become sets whose subjects are authors."""

import json
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.sources.contamination import check_contamination
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
    sets = {
        "forget01": NAMES[:1],
        "forget10": NAMES[:2],
        "retain90": NAMES[2:],
        "retain99": NAMES[1:],
        "holdout10": ["Flo Unseen"],
    }
    sets["holdout01"] = sets["holdout10"]
    for name, people in sets.items():
        rows = [row for person in people for row in rows_of(person)]
        (tmp_path / f"{name}.json").write_text(
            json.dumps(rows) if "holdout" in name else "".join(json.dumps(row) + "\n" for row in rows)
        )
        if "forget" in name or name == "retain90":
            twisted = [row | {"paraphrased_answer": "p", "perturbed_answer": ["a", "b"]} for row in rows]
            table = "retain_perturbed" if name == "retain90" else f"{name}_perturbed"
            (tmp_path / f"{table}.json").write_text("".join(json.dumps(row) + "\n" for row in twisted))
    option = {"question": "Capital of Italy?", "option1": "Paris", "option2": "Rome", "answer": "Rome"}
    for name in ("real_authors", "world_facts"):
        (tmp_path / f"{name}.json").write_text(json.dumps(option) + "\n")
        twisted = {"question": option["question"], "answer": "Rome", "perturbed_answer": ["Paris", "Bern"]}
        (tmp_path / f"{name}_perturbed.json").write_text(json.dumps(twisted) + "\n")
    return tmp_path


def made(place, sample=None, **settings):
    return make(Tofu(input=str(place), **settings), sample=sample, seed=0)


def test_authors_are_subjects_and_paraphrases_and_perturbed_answers_are_kept(place):
    found = made(place, forget_ratios=(0.10, 0.01))
    subjects = {name: {example.subject for example in examples} for name, examples in found.sets.items()}
    assert subjects == {"forget": set(NAMES[:2]), "retain": set(NAMES[2:]), "holdout": {"Flo Unseen"}}
    example = found.sets["forget"][0]
    assert example.metadata == {"paraphrased_answer": "p", "perturbed_answer": ["a", "b"]}
    assert (example.prompt, example.where) == ("Number 0: what is known of Ada Van der Berg?", f"{place / 'forget10.json'}:1")
    assert {name: [len(rows) for rows in sets.values()] for name, sets in found.further.items()} == {"forget01": [20, 380]}
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
    assert [len(examples) for examples in made(place, sample=1).sets.values()] == [20, 20, 20]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"forget_ratios": (0.2,)}, "no split for a forget ratio of 0.2: choose from 0.01, 0.05, 0.1"),
        ({"forget_ratios": ()}, "--forget-ratios is empty"),
        ({"forget_ratios": (0.05,)}, "has no table forget05"),
    ],
)
def test_what_the_benchmark_does_not_have_is_refused(place, settings, said):
    with pytest.raises(ExpungeError) as caught:
        made(place, **settings)
    assert said in str(caught.value)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public TOFU tables are not here (../shared/data/tofu)")
def test_the_public_split_has_20_180_and_20_authors_and_shares_nothing():
    found = made(PUBLIC)
    authors = {name: len({example.subject for example in examples}) for name, examples in found.sets.items()}
    assert authors == {"forget": 20, "retain": 180, "holdout": 20}
    assert all("perturbed_answer" in example.metadata for example in found.sets["forget"])
    assert check_contamination(found.sets).clean
