"""Conditions on columns: what they say, and what they refuse to run."""

import pytest

from expunge.errors import ExpungeError
from expunge.sources.where import condition

ROW = {"subject": "Jane Roe", "age": "41", "year": 2023, "score": 0.5, "visit date": "2023-05-01", "note": None, "tags": ["a"]}


@pytest.mark.parametrize(
    "words",
    [
        "subject == 'Jane Roe'",
        "subject != 'John Doe' and year == 2023",
        "subject in ('Ann Poe', 'Jane Roe')",
        "subject not in ['Ann Poe']",
        "'Roe' in subject",
        "age > 40 and age < 42.5",
        "40 < age <= 41",
        "age == 41",
        "age in (40, 41)",
        "year in {2023}",
        "not (year < 2020 or score > 0.9)",
        "score > -1",
        "note == None",
        "not note > 3",
        "`visit date` >= '2023-01-01'",
        "'a' in tags",
    ],
)
def test_a_condition_says_what_it_says_in_python(words):
    assert condition(words, ROW)(ROW)
    assert not condition(f"not ({words})", ROW)(ROW)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("__import__('os').system('true')", "has no comparison"),
        ("subject == __import__('os')", "in it"),
        ("subject.upper() == 'A'", "in it"),
        ("(lambda: 1)() == 1", "in it"),
        ("[x for x in year] == 1", "in it"),
        ("f'{subject}' == 'a'", "in it"),
        ("year ** 9 == 1", "in it"),
        ("subject", "has no comparison"),
        ("subject = 'Jane Roe'", "cannot be read"),
        ("", "cannot be read"),
        ("subject is None", "not known here"),
        ("subjct == 'Jane Roe'", 'there is no column "subjct": did you mean "subject"?'),
        ("subject == Jane", 'there is no column "Jane"'),
        ("`visit dat` == '1'", 'there is no column "visit dat": did you mean "visit date"?'),
        ("`visit date == '1'", "a backtick too many"),
        ("(" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_comparison_of_columns_is_refused_in_one_line(words, said):
    with pytest.raises(ExpungeError) as caught:
        condition(words, ROW)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compared_is_refused_with_both_values():
    with pytest.raises(ExpungeError, match="'Jane Roe' and 3 cannot be compared"):
        condition("subject < 3", ROW)(ROW)
