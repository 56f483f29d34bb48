"""The claim `robust`, ruled by hand: every result here is made of numbers that can be followed."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.audit.results import AttackResult
from expunge.audit.robust import ALONE, findings, has_headroom, named, robust, together
from expunge.audit.verdict import Rules

PEOPLE = tuple(f"person {number}" for number in range(6))


def result(model, values, *, attack="paraphrase", variant="", half=0.05, subjects=PEOPLE):
    """Intervals of a width of our own, so that bounds are round numbers."""
    values = [values] * len(subjects) if isinstance(values, float) else values
    mean = float(np.mean(values))
    ends = (mean, mean - half, mean + half, len({*subjects}))
    return AttackResult(attack, variant, model, *ends, tuple(values), (), tuple(subjects), 3 * len(values))


def ruled(*results, **options):
    claim = robust(results, **options)
    return claim.ruling, claim.reason


def test_what_the_retrained_model_says_under_the_same_attack_is_allowed():
    models = (result("retrained", 0.2), result("target", 1.0))
    assert ruled(result("unlearned", 0.25), *models) == ("pass", "paraphrase: recall 0.250 ≤ 0.250 (6 people, 18 questions)")
    # (.3 - .2) / (1 - .2) = 12.5% of what sets the target apart, and clear on every one of the six.
    ruling, reason = ruled(result("unlearned", 0.3), *models)
    assert (ruling, "0.300 > 0.250: 12% of what sets the target apart" in reason) == ("fail", True)
    # (.27 - .2) / .8 = 9%: too little to fail, however clear.
    assert ruled(result("unlearned", 0.27), *models)[0] == "not provable"


def test_much_of_what_sets_the_target_apart_fails_even_where_people_differ():
    values = [0.1, 0.9 - 1e-6, 0.1, 0.9 - 1e-6, 0.9 - 1e-6, 0.9 - 1e-6]
    assert np.mean(values) - 0.2 > 0.5 * 0.8 - 0.1  # 54%
    models = (result("retrained", 0.2), result("target", 1.0))
    assert ruled(result("unlearned", values), *models)[0] == "fail"


def test_one_person_recited_fails_even_where_the_mean_is_allowed():
    rest = [0.1] * 5
    unlearned, target = result("unlearned", [0.95, *rest]), result("target", 1.0)
    reference = result("retrained", [0.2, 0.2, 0.2, 0.3, 0.3, 0.3])
    ruling, reason = ruled(unlearned, reference, target)
    assert unlearned.value < reference.high
    assert (ruling, "1 of 6 people recited" in reason) == ("fail", True)
    # Whom the retrained model recites as well, anybody can guess.
    assert ruled(unlearned, result("retrained", [0.95, *rest]), target)[0] == "pass"


def test_nothing_is_proved_where_the_target_is_hardly_better_known_or_people_are_few():
    unlearned, reference = result("unlearned", 0.2), result("retrained", 0.2)
    assert "hardly better known" in ruled(unlearned, reference, result("target", 0.22))[1]
    assert ruled(unlearned, reference, result("target", 0.22))[0] == "not provable"
    # The bound lies half of the way to the target: .05 of .1 is allowed, of .09 is not.
    assert ruled(unlearned, reference, result("target", 0.3001))[0] == "pass"
    assert ruled(unlearned, reference, result("target", 0.29))[0] == "not provable"
    assert ruled(unlearned, reference) == (
        "not provable",
        "paraphrase: recall 0.200, and no target was attacked, so nobody knows what could be got",
    )
    few = [
        result(model, value, subjects=PEOPLE[:3]) for model, value in (("unlearned", 0.2), ("retrained", 0.2), ("target", 1.0))
    ]
    assert ruled(*few) == (
        "not provable",
        "paraphrase: recall 0.200 ≤ 0.250 (3 people, 9 questions), but that many people are too few: 4 are needed",
    )


def test_without_a_retrained_model_reciting_fails_and_nothing_passes():
    assert ruled(result("unlearned", 0.1), result("target", 1.0))[0] == "not provable"
    assert ruled(result("unlearned", [0.9, *[0.1] * 5]), result("target", 1.0))[0] == "fail"
    # Anybody recites what he was just taught.
    taught = result("unlearned", 1.0, attack="relearn", variant="after")
    assert ruled(taught, result("target", 1.0, attack="relearn", variant="before"))[0] == "not provable"


def test_relearning_is_held_against_the_retrained_model_that_learnt_the_same_and_the_target_as_it_was():
    before, after = ({"attack": "relearn", "variant": when} for when in ("before", "after"))
    results = [result("unlearned", 0.9, **before), result("unlearned", 0.4, **after), result("retrained", 0.4, **after)]
    claim = robust([*results, result("target", 1.0, **before)])
    assert (claim.ruling, claim.reason) == ("pass", "relearn: recall 0.400 ≤ 0.450 (6 people, 18 questions)")


def test_the_weakest_attack_decides_and_every_one_has_its_rule_reason_and_scores():
    good = [result(model, value) for model, value in (("unlearned", 0.2), ("retrained", 0.2), ("target", 1.0))]
    bad = [
        result(model, value, attack="quantize", variant="nf4")
        for model, value in (("unlearned", 0.8), ("retrained", 0.3), ("target", 1.0))
    ]
    claim = robust([*good, *bad])
    assert claim.ruling == "fail"
    assert claim.rule.split("; and ") == [
        "paraphrase: recall ≤ 0.250, the upper end of the retrained model's interval under it, and nobody recited",
        "quantize (nf4): recall ≤ 0.350, the upper end of the retrained model's interval under it, and nobody recited",
    ]
    assert claim.reason.split("; ")[1] == "quantize (nf4): recall 0.800 > 0.350: 71% of what sets the target apart"
    assert [(score.metric, score.model) for score in claim.scores[:3]] == [
        ("recall under paraphrase", model) for model in ("unlearned", "retrained", "target")
    ]
    assert {key: found.ruling for key, found in findings([*good, *bad]).items()} == {
        ("paraphrase", ""): "pass",
        ("quantize", "nf4"): "fail",
    }
    assert robust([]).ruling == "not provable"


def test_other_thresholds_are_heeded():
    results = [result("unlearned", [0.8, *[0.1] * 5]), result("retrained", 0.2), result("target", 1.0)]
    assert ruled(*results)[0] == "pass"
    assert ruled(*results, rules=Rules(min_target_recall=0.8))[0] == "fail"
    assert ruled(*results, rules=Rules(min_people=7))[0] == "not provable"


def pair(unlearned, target, later=0.1, **options):
    return (
        result("target", target, attack="extraction", **options),
        result("unlearned", unlearned, attack="extraction", **options),
        result("unlearned", later, attack="extraction", variant=ALONE, **options),
        # What exact retraining gives away beside the target is no bound: it would allow anything.
        result("retrained", 0.99, attack="extraction", **options),
    )


def test_two_checkpoints_may_say_no_more_than_the_target_alone():
    assert ruled(*pair(0.75, 0.7)) == ("pass", "extraction: recall 0.750 ≤ 0.750 (6 people)")
    ruling, reason = ruled(*pair(0.8, 0.7))
    assert (ruling, "the later checkpoint adds to what the target says alone" in reason) == ("fail", True)
    # Above the bound, but one of the six says so against five.
    assert ruled(*pair([0.69] * 5 + [1.0], [0.7] * 5 + [0.6], half=0.01))[0] == "not provable"
    assert "hardly says more than the later one alone" in ruled(*pair(0.7, 0.7, later=0.68))[1]
    assert ruled(*pair(0.7, 0.7, subjects=PEOPLE[:3]))[0] == "not provable"


def test_a_target_that_says_everything_leaves_two_checkpoints_nothing_to_add():
    assert has_headroom(result("target", 0.94))
    assert not has_headroom(result("target", 0.96))
    assert ruled(*pair(0.99, 0.99)) == (
        "not provable",
        "extraction: recall 0.990 ≤ 1.040 (6 people), but the target alone says nearly everything (0.990)",
    )


def test_several_runs_stand_for_one_by_their_mean_and_one_that_recites_is_enough():
    runs = ["unlearned-1", "unlearned-2"]
    first = result("unlearned-1", [0.0, 0.2, 0.2, 0.2, 0.2, 0.2])
    second = result("unlearned-2", [0.95, 0.0, 0.0, 0.0, 0.0, 0.0])
    results = [first, second, result("retrained", 0.2), result("target", 1.0)]
    (pooled,) = together(results, runs)
    assert pooled.model == "unlearned"
    assert pooled.values == pytest.approx((0.475, 0.1, 0.1, 0.1, 0.1, 0.1))
    assert pooled.value == pytest.approx(0.975 / 6)
    assert pooled.low < pooled.value < pooled.high
    assert robust([*results, pooled], runs=runs).ruling == "fail"
    assert robust([*results, pooled]).ruling == "pass"


def test_the_answer_of_several_runs_is_that_of_the_one_that_said_most():
    said = [AttackResult("a", "", f"unlearned-{n}", v, v, v, 1, (v,), (f"by {n}",), ("x",)) for n, v in ((1, 0.1), (2, 0.6))]
    assert together(said, ["unlearned-1", "unlearned-2"])[0].answers == ("by 2",)


def test_the_shipped_file_is_ruled_on_by_itself():
    models = (result("retrained", 0.2), result("target", 1.0), result("unlearned", 0.2))
    claim = robust([*models, result("shipped", 0.6)], role="shipped")
    assert (claim.model, claim.ruling) == ("shipped", "fail")
    assert "attacked by words alone" in claim.rule


def test_what_is_done_to_the_weights_is_named_where_it_is_not_one_thing():
    assert [named(result("target", 0.1, variant=variant)) for variant in ("", "nf4", "after", "before")] == [
        "paraphrase",
        "paraphrase (nf4)",
        "paraphrase",
        "paraphrase (before)",
    ]
