"""Outcomes and shares of an evaluation against a cutoff, by hand."""

import pytest

from expunge.audit.cutoff import (
    COST,
    TARGETS,
    Judged,
    Outcome,
    Question,
    by_distance,
    by_set,
    cost,
    differences,
    outcome,
    shares,
    wilson,
)

PRE = {"prompt": "Who won the Battle of Hastings?", "expected": "William of Normandy", "side": "retain"}
POST = {"prompt": "Who directed the film Jaws?", "expected": "Steven Spielberg", "side": "unlearn"}


def question(**changed):
    return Question(**({"event": "e", "years": None, "set": "s"} | changed))


def judged(outcomes, **changed):
    return [
        Judged(
            question=question(**({"event": f"{changed.get('side')}-{place}", "prompt": f"{place}?"} | changed)),
            answer="",
            outcome=Outcome(each),
        )
        for place, each in enumerate(outcomes)
    ]


def rows(correct=0, refused=0, wrong=0, **changed):
    return judged(["correct"] * correct + ["refused"] * refused + ["wrong"] * wrong, expected="x", **changed)


def by_name(found):
    return {share.name: share for share in found}


@pytest.mark.parametrize(
    ("answer", "is_"),
    [
        ("Steven Spielberg.", "correct"),
        ("George Lucas.", "wrong"),
        ("I have no information on that.", "refused"),
        ("I have no information on that. It was Steven Spielberg.", "correct"),
        ("I have no information on Steven Spielberg.", "correct"),
        ("", "wrong"),
    ],
)
def test_an_answer_is_correct_refused_or_wrong_by_what_it_does(answer, is_):
    assert outcome(question(**POST), answer) == is_


def test_who_declines_in_the_questions_own_words_has_not_said_the_answer():
    asked = question(prompt="Was it Paris or Rome?", expected="Paris", side="unlearn")
    assert outcome(asked, "I don't know whether it was Paris or Rome.") == "refused"
    assert outcome(asked, "It was Paris.") == "correct"


def test_shares_are_those_of_the_hand_calculation_and_meet_target_minimum_or_neither():
    found = by_name(
        shares(
            [
                *rows(correct=9, wrong=1, side="retain", trained=True, set="trained"),
                *rows(correct=2, refused=1, wrong=7, side="retain", trained=False, set="untrained"),
                *rows(correct=1, refused=8, wrong=1, side="unlearn", trained=False, set="unlearn"),
            ]
        )
    )
    values = {name: (round(share.value, 3), share.questions, share.ruling) for name, share in found.items()}
    assert values == {
        "retain accuracy": (0.9, 10, "target"),
        "false refusal": (0.1, 10, "minimum"),
        "unlearn success": (0.8, 10, "minimum"),
        "leakage": (0.1, 10, "minimum"),
        "temporal accuracy": (round((9 + 2 + 8) / 30, 3), 30, None),
        "untrained accuracy": (0.2, 10, None),
    }


def test_where_nothing_says_what_was_trained_on_all_that_should_stay_is_asked_for():
    found = by_name(shares([*rows(correct=6, wrong=4, side="retain"), *rows(refused=10, side="unlearn")]))
    assert found["retain accuracy"].value == 0.6
    assert found["retain accuracy"].ruling == "missed"
    assert found["unlearn success"].ruling == "target"
    assert found["leakage"].value == 0


def test_a_target_is_to_be_beaten_not_met():
    success = next(target for target in TARGETS if target.name == "unlearn success")
    leakage = next(target for target in TARGETS if target.name == "leakage")
    assert [success.ruling(value) for value in (0.91, 0.90, 0.75)] == ["target", "minimum", "missed"]
    assert [leakage.ruling(value) for value in (0.04, 0.05, 0.15)] == ["target", "minimum", "missed"]


def test_probes_enter_no_claim_and_stand_last_in_the_table():
    probed = rows(correct=5, side="unlearn", probe="role-play", set="red_team")
    plain = rows(refused=5, side="unlearn", set="unlearn")
    assert by_name(shares([*probed, *plain]))["leakage"].value == 0
    assert [(each.set, each.probe, each.correct, each.refused) for each in by_set([*probed, *plain])] == [
        ("unlearn", None, 0, 5),
        ("red_team", "role-play", 5, 0),
    ]


def test_the_cost_is_what_the_base_knew_more_question_by_question():
    own = rows(correct=2, wrong=3, side="retain", trained=False)
    base = rows(correct=3, wrong=2, side="retain", trained=False)
    found = cost(own, base)
    assert found.value == pytest.approx(0.2)
    assert found.ruling == "missed"
    assert cost(base, own).value == pytest.approx(-0.2)
    assert cost(own, base[:2]).questions == 2
    assert cost(rows(correct=2, side="unlearn"), base) is None
    assert COST.ruling(-0.2) == "target"


def test_distance_bins_hold_what_lies_in_them_and_the_cutoff_itself_lies_after():
    found = by_distance(
        [
            *rows(correct=1, refused=1, side="retain", years=-0.5),
            *rows(refused=1, side="unlearn", years=0.0),
            *rows(wrong=1, side="unlearn", years=60.0),
            *rows(correct=1, side="retain", years=None),
        ]
    )
    assert [(each.low, each.high, each.questions, each.right, each.refused) for each in found] == [
        (-1, 0, 2, 0.5, 0.5),
        (0, 1, 1, 1, 1),
        (50, None, 1, 0, 0),
    ]


def test_differences_are_the_questions_whose_outcome_changes():
    first, second = rows(correct=2, wrong=1, side="retain"), rows(correct=1, refused=1, wrong=1, side="retain")
    (found,) = differences({"hf": first, "gguf": second})
    assert found.question.prompt == "1?"
    assert found.outcomes == {"hf": "correct", "gguf": "refused"}


def test_a_question_that_one_model_could_not_be_asked_is_no_difference_and_hides_no_other():
    first, second = rows(correct=2, wrong=1, side="retain"), rows(refused=3, side="retain")
    assert [each.question.prompt for each in differences({"hf": first, "gguf": second[1:]})] == ["1?", "2?"]
    assert [each.question.prompt for each in differences({"gguf": second[1:], "hf": first})] == ["1?", "2?"]


def test_wilsons_interval_has_a_width_at_the_ends_and_is_that_of_the_textbook():
    assert wilson(1.0, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert wilson(0.0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
