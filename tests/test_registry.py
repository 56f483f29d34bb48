"""One file, one thing: the register finds what a package holds and refuses a second thing of one name."""

import sys

import pytest

from expunge.errors import ExpungeError, suggestion
from expunge.registry import Registry


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A package whose two files each register an animal."""
    package = tmp_path / "zoo_of_the_tests"
    package.mkdir()
    (package / "__init__.py").write_text("from expunge.registry import Registry\nANIMALS = Registry('animal', __name__)\n")
    for name in ("wolf", "ant-eater"):
        module = f"from zoo_of_the_tests import ANIMALS\nANIMALS.add({name!r}, {name.upper()!r})\n"
        (package / f"{name.replace('-', '_')}.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    import zoo_of_the_tests

    yield zoo_of_the_tests.ANIMALS
    for name in [name for name in sys.modules if name.startswith("zoo_of_the_tests")]:
        del sys.modules[name]


def test_adding_a_file_adds_the_thing(zoo):
    assert list(zoo) == ["ant-eater", "wolf"]
    assert zoo["wolf"] == "WOLF"


def test_files_are_imported_on_first_use_and_not_before(zoo):
    assert "zoo_of_the_tests.wolf" not in sys.modules
    assert zoo["wolf"]
    assert "zoo_of_the_tests.wolf" in sys.modules


def test_a_second_thing_of_one_name_is_refused():
    animals: Registry[int] = Registry("animal", "nowhere")
    animals.add("wolf", 1)
    with pytest.raises(ValueError, match="animal 'wolf' is registered twice"):
        animals.add("wolf", 2)


def test_an_unknown_name_is_refused_with_the_closest_one(zoo):
    with pytest.raises(ExpungeError, match=r'^no animal is called "wulf": did you mean "wolf"\?$'):
        zoo["wulf"]
    with pytest.raises(ExpungeError, match=r'^no animal is called "giraffe": choose from ant-eater, wolf$'):
        zoo["giraffe"]


def test_a_suggestion_does_not_mind_capitals():
    assert suggestion("NPO", ["npo", "grad-diff"]) == 'did you mean "npo"?'


def test_an_error_is_one_line_with_the_place_first_and_the_remedy_last():
    error = ExpungeError("is\n empty", where="notes.jsonl", line=3, remedy="fill it")
    assert str(error) == "notes.jsonl:3: is empty: fill it"
    assert (error.what, error.where, error.line, error.remedy) == ("is\n empty", "notes.jsonl", 3, "fill it")
    assert str(ExpungeError("the disk is full")) == "the disk is full"
    assert str(ExpungeError("is empty", where="notes.jsonl")) == "notes.jsonl: is empty"
