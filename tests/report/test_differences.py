from __future__ import annotations

import pytest

from expunge.report.differences import compare


def test_the_expected_answer_itself_has_no_difference():
    found = compare("She has reflux.", "She has reflux.")
    assert [piece.kind for piece in found.pieces] == ["same"]
    assert (found.kept, found.expected) == (3, 3)


def test_other_and_missing_words_stand_where_they_belong():
    found = compare("She has asthma and rests", "She has reflux and")
    assert [tuple(piece) for piece in found.pieces] == [
        ("same", "She has"),
        ("missing", "reflux"),
        ("other", "asthma"),
        ("same", "and"),
        ("other", "rests"),
    ]
    assert (found.kept, found.expected) == (3, 4)


def test_case_and_punctuation_around_a_word_make_no_difference():
    assert compare("REFLUX, she has.", "reflux; she has").kept == 3


def test_punctuation_alone_is_still_a_word():
    assert [piece.kind for piece in compare("—", "…").pieces] == ["missing", "other"]


@pytest.mark.parametrize("answer", ["", "  \n "])
def test_an_empty_answer_misses_every_word(answer):
    found = compare(answer, "two words")
    assert [tuple(piece) for piece in found.pieces] == [("missing", "two words")]
    assert found.kept == 0


def test_an_endless_answer_is_cut_and_says_by_how_much():
    found = compare("word " * 5000, "word")
    shown = sum(len(piece.text) for piece in found.pieces)
    assert shown <= 2000
    assert found.cut > 20_000


def test_text_without_spaces_is_cut_too():
    assert compare("x" * 9000, "y").cut == 7000
