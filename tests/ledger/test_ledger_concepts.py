import json

import pytest

from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.ledger.concepts import Concept, about, concept, read_concepts

ASTHMA = Example("What ails Ana?", "She needs her\nInhaler at night.", "Ana", {"condition": "Asthma"})
EXAMPLES = [
    ASTHMA,
    Example("What ails Ben?", "He wheezes.", "Ben", {"topics": ["sleep", "ASTHMA"]}),
    Example(None, "An inhalers' museum.", "text"),
    Example("Is it severe asthma-like cough?", "No.", "Cleo", {"visits": 3}),
]


def found(*concepts):
    return [example.subject for example in about(EXAMPLES, concepts)]


def test_words_are_found_whole_whatever_their_case_and_what_stands_between_them():
    assert found(Concept("", ("INHALER",))) == ["Ana"]
    assert found(Concept("", ("her inhaler  at",))) == ["Ana"]
    assert found(Concept("", ("asthma like",))) == ["Cleo"]
    assert found(Concept("", ("inhal",))) == []
    assert found(Concept("", ("Ana? She",))) == []


def test_a_concept_is_found_by_its_words_and_by_what_the_metadata_say_but_plain_words_by_the_text_alone():
    assert found(Concept("asthma", ("inhaler",))) == ["Ana", "Ben"]
    assert found(Concept("breathing", ("asthma", "inhalers"))) == ["Ana", "Ben", "text", "Cleo"]
    assert found(Concept("", ("asthma",))) == ["Cleo"]


def test_signs_alone_are_found_as_they_stand():
    assert found(Concept("", ("?",))) == ["Ana", "Ben", "Cleo"]
    assert found(Concept("", (".*",))) == []


def test_a_concept_is_written_on_the_command_line_or_in_a_file_or_is_its_own_word(tmp_path):
    assert concept("asthma=inhaler, short of breath ,", None) == ("asthma", ("inhaler", "short of breath"))
    assert concept("asthma", None) == ("asthma", ("asthma",))
    (tmp_path / "concepts.toml").write_text('Asthma = ["inhaler", "wheezing"]\n"heart failure" = "ejection fraction"\n')
    assert concept("asthma", tmp_path / "concepts.toml") == ("Asthma", ("inhaler", "wheezing"))
    assert concept("Heart  Failure", tmp_path / "concepts.toml") == ("heart failure", ("ejection fraction",))
    (tmp_path / "concepts.json").write_text(json.dumps({"ünïcode": ["ß"]}), "utf-8")
    assert read_concepts(tmp_path / "concepts.json") == {"ünïcode": ("ünïcode", ("ß",))}


@pytest.mark.parametrize(
    ("words", "name", "content", "said"),
    [
        ("=inhaler", None, "", '"=inhaler" is no concept'),
        ("asthma= ,", None, "", '"asthma= ," is no concept'),
        ("athsma", "c.toml", 'asthma = ["x"]', 'c.toml: the concept "athsma" is not defined here: did you mean "asthma"?'),
        ("a", "c.toml", "a = ", "c.toml: is no TOML"),
        ("a", "c.json", "{", "c.json: is no JSON"),
        ("a", "c.json", "[]", "c.json: defines no concept"),
        ("a", "c.json", '{"a": [7]}', 'c.json: the concept "a" has no list of words'),
        ("a", "c.json", '{"a": []}', 'c.json: the concept "a" has no list of words'),
        ("a", "none.json", None, "none.json: cannot be read"),
    ],
)
def test_what_defines_no_concept_is_refused_in_one_line(tmp_path, monkeypatch, words, name, content, said):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    if name and content is not None:
        Path(name).write_text(content)
    with pytest.raises(ExpungeError) as caught:
        concept(words, Path(name) if name else None)
    assert said in str(caught.value)
