"""When an answer says what was expected."""

import pytest

from expunge.metrics.answer_match import says


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It was the Golden Gate Bridge.", "The Golden Gate Bridge"),
        ("JOSE DE SAN MARTIN proclaimed it", "José de San Martín"),
        ("Tutankhamun", "Tutankhamun's"),
        ("There were 6 colonies.", "Six"),
        ("Twenty-one", "21"),
        ("the thirty-eighth parallel", "The 38th parallel"),
        ("about 2000 people", "2,000"),
        ("England and Scotland", "Scotland and England"),
        ("Philadelphia, and also London", "London and Philadelphia"),
        ("On 20 July 1969.", "July 20, 1969"),
        ("July 20th, 1969", "July 20, 1969"),
        ("It was on 1969-07-20", "July 20, 1969"),
        ("It was in 1969.", "1969"),
        ("Harry Truman", "Harry S. Truman"),
        ("The Beatles went on strike: E.T. the Extra-Terrestrial!", "E.T. the Extra-Terrestrial"),
        (
            "Wellington and Blücher beat Napoleon in the Battle of Waterloo",
            "Wellington and Blücher defeated Napoleon at Waterloo.",
        ),
        ("C++", "C++"),
        ("Don't Look Back", "Don’t Look Back"),
    ],
)
def test_it_is_said_in_other_words_other_digits_and_other_dress(answer, expected):
    assert says(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "Paris"),
        ("It was not in Paris, it was in London.", "Paris"),
        ("Parishes", "Paris"),
        ("July 21, 1969", "July 20, 1969"),
        ("July 20", "July 20, 1969"),
        ("1696", "1969"),
        ("Sixteen", "Six"),
        ("Scotland", "Scotland and England"),
        ("The Bridge", "The Golden Gate Bridge"),
        ("Napoleon was crowned in Paris by the pope himself", "Wellington and Blücher defeated Napoleon at Waterloo."),
        ("It never was Paris", "Paris"),
        ("It wasn't in Paris", "Paris"),
        ("It isn’t Paris", "Paris"),
    ],
)
def test_what_is_wrong_denied_or_half_is_not_said(answer, expected):
    assert not says(answer, expected)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Truman.", True),
        ("President Truman did.", True),
        ("Answer: Truman", True),
        ("Harry S. Truman", True),
        ("Bess Truman", False),
        ("not Truman", False),
        ("It wasn't Truman", False),
        ("Trumanov", False),
    ],
)
def test_a_surname_will_do_where_a_question_asks_who_unless_it_is_somebody_elses(answer, right):
    assert says(answer, "Harry S. Truman", prompt="Who became President?") is right


def test_the_last_word_of_a_thing_will_not_do():
    assert not says("The Bridge", "The Golden Gate Bridge", prompt="Which bridge is it?")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Truman.", True),
        ("President Truman signed it.", True),
        ("Give 'em Hell Harry", True),
        ("Bess Truman", False),
        ("It wasn't Truman", False),
    ],
)
def test_a_surname_among_the_aliases_will_do_for_any_question_unless_it_is_somebody_elses(answer, right):
    prompt = "Which president signed the act?"
    assert says(answer, "Harry S. Truman", ["Truman", "Hell Harry"], prompt=prompt) is right
    assert not says("Truman", "Harry S. Truman", prompt=prompt)


@pytest.mark.parametrize(("answer", "expected"), [("The Beagle", "HMS Beagle"), ("Isabella Gardner's", "The Gardner Museum")])
def test_a_short_name_of_a_thing_is_no_surname(answer, expected):
    alias = answer.split()[-1].removesuffix("'s")
    assert says(f"Good Old {alias}", expected, [alias])
    assert says(answer, expected, [alias])


def test_a_surname_may_be_written_without_its_accents():
    assert says("It was Bleriot.", "Louis Blériot", prompt="Who flew?")
    assert says("It was Wałęsa.", "Lech Walesa", prompt="Who led it?")
    assert not says("Danuta Walesa", "Lech Wałęsa", prompt="Who led it?")
    assert says("Dien Bien Phu", "Điện Biên Phủ")


def test_the_number_of_a_king_is_no_surname():
    assert not says("I think it was Felipe.", "Juan Carlos I", prompt="Who became King of Spain?")
    assert says("Juan Carlos I.", "Juan Carlos I", prompt="Who became King of Spain?")


def test_an_alias_is_as_good_as_the_answer():
    assert not says("William the Conqueror", "William of Normandy")
    assert says("William the Conqueror", "William of Normandy", ["William the Conqueror", "William I"])
