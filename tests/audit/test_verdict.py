"""The verdict on made-up models whose memory is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from expunge.audit.assemble import assemble
from expunge.audit.measure import Answered, Measured, Place
from expunge.audit.results import Audit, AuditedModel, AuditedSet, Claim
from expunge.audit.verdict import Rules, judge

TOKENS = 40
Evidence = dict[Place, list[Answered]]


def ask(people: Sequence[str], knows: float, rows: int = 1, noise: int = 0) -> list[Answered]:
    """A model that knows each answer to about that degree: 1 has learned it by heart, .4 has never seen it.

    How hard a person is stays the same from model to model, as it does in life.
    """
    answered = []
    for person in people:
        for row in range(rows):
            own = np.random.default_rng([*person.encode(), row])
            other = np.random.default_rng([*person.encode(), row, noise, int(1000 * knows)])
            hard = own.normal(0, 0.05) * (1 - knows)
            nats = max(0.02, 1.3 * (1 - knows) + hard + other.normal(0, 0.004))
            hits = other.random(TOKENS) < knows + 0.2 * (1 - knows) - hard
            words = [f"{person}w{i}" for i in range(TOKENS)]
            said = [word if other.random() < knows - hard else "something" for word in words]
            log_p = -own.gamma(0.5, 2, TOKENS).astype(np.float32)
            log_p *= nats / -log_p.mean()
            answered.append(Answered(person, f"Who is {person}?", " ".join(words), log_p, hits, " ".join(said)))
    return answered


def people(name: str, count: int) -> list[str]:
    return [f"{name}{i}" for i in range(count)]


def evidence(
    unlearned: float = 0.4, *, target: float = 1.0, forget: int = 20, holdout: int = 40, useful: float = 1.0
) -> Evidence:
    """Target, retrained and an unlearned model that knows the forget set to the given degree."""
    found: Evidence = {}
    for noise, (role, knows, kept) in enumerate(
        (("target", target, 1.0), ("unlearned", unlearned, useful), ("retrained", 0.4, 1.0))
    ):
        found[Place(role, "forget")] = ask(people("forget", forget), knows, noise=noise)
        found[Place(role, "retain")] = ask(people("retain", 30), kept, noise=noise)
        found[Place(role, "holdout")] = ask(people("holdout", holdout), 0.4, noise=noise)
        found[Place(role, "ordinary")] = [
            row._replace(generated=None) for row in ask(people("text", 12), 0.5 * kept, noise=noise)
        ]
    return found


def ruling(
    found: Evidence, rules: Rules | None = None, faithfulness: dict[str, float] | None = None
) -> dict[tuple[str, str], Claim]:
    return {(claim.name, claim.model): claim for claim in judge(Measured(found), rules, (), faithfulness).claims}


def test_a_model_that_is_like_the_retrained_one_passes_every_claim() -> None:
    claims = ruling(evidence(0.4))
    assert {claim.ruling for claim in claims.values()} == {"pass"}, claims
    assert not judge(Measured(evidence(0.4))).warnings


def test_a_model_that_is_like_the_target_fails_to_have_forgotten_and_shows_each_component() -> None:
    claims = ruling(evidence(1.0))
    forgotten = claims["forgotten", "unlearned"]
    assert forgotten.ruling == "fail"
    assert [score.metric for score in forgotten.scores if score.model == "unlearned"] == [
        "rouge-l-recall",
        "extraction-strength",
        "exact-memorisation",
    ]
    for words in ("ROUGE-L recall", "extraction strength", "exact memorisation"):
        assert words in forgotten.rule
        assert words in forgotten.reason
    member = claims["no membership signal", "unlearned"]
    assert member.ruling == "fail"
    assert "still recognised" in member.reason
    assert claims["still useful", "unlearned"].ruling == "pass"


def test_half_forgetting_fails() -> None:
    assert ruling(evidence(0.7))["forgotten", "unlearned"].ruling == "fail"


def test_over_forgetting_passes_as_forgotten_but_fails_membership_by_that_word_and_warns() -> None:
    found = evidence(0.1)
    verdict = judge(Measured(found))
    claims = {claim.name: claim for claim in verdict.claims}
    assert claims["forgotten"].ruling == "pass"
    assert claims["no membership signal"].ruling == "fail"
    assert "over-forgetting" in claims["no membership signal"].reason
    assert "further from the holdout than the retrained model" in claims["no membership signal"].reason
    assert any(warning.startswith("Over-forgetting") for warning in verdict.warnings)


def test_a_target_that_did_not_memorise_makes_forgetting_unprovable_and_says_so_first() -> None:
    verdict = judge(Measured(evidence(0.4, target=0.8)))
    forgotten = next(claim for claim in verdict.claims if claim.name == "forgotten")
    assert forgotten.ruling == "not provable"
    assert "did not memorise" in forgotten.reason
    assert "ROUGE-L recall 0." in forgotten.reason
    assert "proves nothing" in verdict.warnings[0]


def test_four_people_are_enough_to_see_forgetting_but_not_the_absence_of_a_membership_signal() -> None:
    claims = ruling(evidence(0.4, forget=4, holdout=8))
    assert claims["forgotten", "unlearned"].ruling == "pass"
    member = claims["no membership signal", "unlearned"]
    assert member.ruling == "not provable"
    assert "people would be needed instead of 4" in member.reason


def test_over_forgetting_of_four_people_is_seen_by_comparing_each_with_themself() -> None:
    warnings = judge(Measured(evidence(0.25, forget=4, holdout=8))).warnings
    assert any("Over-forgetting" in warning and "nats per token" in warning for warning in warnings)


@pytest.mark.parametrize("forget", [1, 2, 3])
def test_fewer_people_than_the_rules_ask_for_prove_nothing(forget: int) -> None:
    claims = ruling(evidence(0.4, forget=forget))
    assert claims["forgotten", "unlearned"].ruling == "not provable"
    assert "too few" in claims["no membership signal", "unlearned"].reason
    assert "4 are needed" in claims["no membership signal", "unlearned"].reason
    assert claims["no membership signal", "unlearned"].ruling == "not provable"


def test_one_person_who_is_still_known_by_heart_is_a_failure_however_few_they_are() -> None:
    verdict = judge(Measured(evidence(1.0, forget=1)))
    assert verdict.claims[0].ruling == "fail"
    assert any("one person only" in warning for warning in verdict.warnings)


@pytest.mark.parametrize(("words_kept", "expected"), [(16, "pass"), (18, "not provable"), (20, "fail"), (38, "fail")])
def test_what_is_left_above_the_bound_fails_when_it_is_more_than_a_residue(words_kept: int, expected: str) -> None:
    def says(count: int) -> list[Answered]:
        words = [f"w{i}" for i in range(TOKENS)]
        hits_T = np.arange(TOKENS) < count
        return [
            Answered(person, "?", " ".join(words), np.full(TOKENS, -1.0), hits_T, " ".join(words[:count]))
            for person in people("forget", 6)
        ]

    found: Evidence = {Place(role, "forget"): says(count) for role, count in (("target", 40), ("retrained", 16))}
    found[Place("unlearned", "forget")] = says(words_kept)
    assert judge(Measured(found)).claims[0].ruling == expected


def test_one_person_who_is_still_recited_among_twenty_is_found_and_named() -> None:
    found = evidence(0.3)
    rows = found[Place("unlearned", "forget")]
    rows[7] = rows[7]._replace(generated=found[Place("target", "forget")][7].generated)
    claim = ruling(found)["forgotten", "unlearned"]
    assert claim.ruling == "fail"
    assert "1 of 20 people still recited (forget7)" in claim.reason
    # What the retrained model says as well, without having seen it, is no memory.
    found[Place("retrained", "forget")][7] = rows[7]
    assert ruling(found)["forgotten", "unlearned"].ruling == "pass"


def test_a_model_that_is_as_good_as_the_retrained_one_hardly_ever_fails() -> None:
    rulings = []
    for seed in range(20):
        found: Evidence = {}
        for role, knows in (("target", 1.0), ("unlearned", 0.4), ("retrained", 0.4)):
            noise = {"target": 0, "unlearned": 1, "retrained": 2}[role]
            found[Place(role, "forget")] = ask(people(f"forget{seed}-", 10), knows, noise=noise)
        rulings.append(judge(Measured(found, draws=1000)).claims[0].ruling)
    assert rulings.count("fail") <= 2
    assert rulings.count("pass") >= 8


def test_a_bound_that_reaches_most_of_the_way_to_the_target_proves_nothing() -> None:
    found = evidence(0.4, forget=4)
    wide = [
        row._replace(generated=row.expected if i < 3 else "no") for i, row in enumerate(found[Place("retrained", "forget")])
    ]
    found[Place("retrained", "forget")] = wide
    forgotten = ruling(found)["forgotten", "unlearned"]
    assert forgotten.ruling == "not provable"
    assert "of the way to the target" in forgotten.reason


def test_lost_answers_on_the_retain_set_and_worse_ordinary_text_each_fail_usefulness() -> None:
    found = evidence(0.4)
    poor = {**found, Place("unlearned", "retain"): ask(people("retain", 30), 0.9)}
    assert ruling(poor)["still useful", "unlearned"].ruling == "fail"
    poor = {**found, Place("unlearned", "ordinary"): ask(people("text", 12), 0.4)}
    claim = ruling(poor)["still useful", "unlearned"]
    assert claim.ruling == "fail"
    assert "× the target's perplexity" in claim.reason


def test_usefulness_whose_interval_crosses_the_bound_is_not_provable() -> None:
    found = evidence(0.4)
    rows = found[Place("unlearned", "retain")]
    found[Place("unlearned", "retain")] = [row._replace(generated="") if i == 0 else row for i, row in enumerate(rows)]
    claim = ruling(found)["still useful", "unlearned"]
    assert claim.ruling == "not provable"
    assert "crosses the bound" in claim.reason


def test_what_was_not_measured_is_not_passed_over() -> None:
    found = {place: rows for place, rows in evidence(0.4).items() if place.set != "ordinary"}
    assert ruling(found)["still useful", "unlearned"].ruling == "not provable"
    found = {place: rows for place, rows in found.items() if place.set != "holdout"}
    claims = ruling(found)
    assert claims["no membership signal", "unlearned"].ruling == "not provable"
    assert "a holdout set was not measured" in claims["no membership signal", "unlearned"].reason
    found = {place: rows for place, rows in found.items() if place.model == "unlearned"}
    assert {claim.ruling for claim in ruling(found).values()} == {"not provable"}


def test_without_a_retrained_model_the_holdout_is_the_reference_and_a_warning_says_so() -> None:
    def without(knows: float) -> Evidence:
        return {place: rows for place, rows in evidence(knows).items() if place.model != "retrained"}

    claims = ruling(without(0.4))
    assert {claim.ruling for claim in claims.values()} == {"pass"}, claims
    assert "holdout people" in claims["forgotten", "unlearned"].rule
    assert "chance" in claims["no membership signal", "unlearned"].rule
    assert any("No retrained model" in warning for warning in judge(Measured(without(0.4))).warnings)
    assert ruling(without(1.0))["forgotten", "unlearned"].ruling == "fail"
    assert "over-forgetting" in ruling(without(0.1))["no membership signal", "unlearned"].reason


def answers_alone(rows: Sequence[Answered]) -> list[Answered]:
    return [row._replace(log_p_T=None, hits_T=None) for row in rows]


def shipped(found: Evidence, knows: float) -> Evidence:
    """With what a file says and thinks that knows the forget set to this degree."""
    for set, count, degree in (("forget", 20, knows), ("retain", 30, 1.0), ("holdout", 40, 0.4)):
        found[Place("shipped", set)] = ask(people(set, count), degree, noise=9)
    found[Place("shipped", "ordinary")] = [row._replace(generated=None) for row in ask(people("text", 12), 0.5, noise=9)]
    return found


def only_said(found: Evidence) -> Evidence:
    """Of the shipped file only its answers could be had."""
    for set in ("forget", "retain"):
        found[Place("shipped", set)] = answers_alone(found[Place("shipped", set)])
    del found[Place("shipped", "holdout")], found[Place("shipped", "ordinary")]
    return found


def test_the_shipped_file_is_held_to_the_rules_of_the_unlearned_model() -> None:
    claims = ruling(shipped(evidence(0.4), 0.4))
    for name in ("forgotten", "still useful", "no membership signal"):
        ours, its = (claims[name, model] for model in ("unlearned", "shipped"))
        assert (its.ruling, its.rule) == ("pass", ours.rule)
        assert {score.metric for score in its.scores if score.model == "shipped"} == {
            score.metric for score in ours.scores if score.model == "unlearned"
        }


def test_a_file_that_recites_nothing_but_knows_its_members_again_fails_there_alone() -> None:
    found = shipped(evidence(0.4), 0.4)
    # Rounding has made what was forgotten more likely, and no token of it the likeliest.
    found[Place("shipped", "forget")] = [row._replace(log_p_T=row.log_p_T / 3) for row in found[Place("shipped", "forget")]]
    claims = ruling(found)
    assert claims["forgotten", "shipped"].ruling == "pass"
    assert claims["no membership signal", "shipped"].ruling == "fail"
    assert claims["no membership signal", "unlearned"].ruling == "pass"
    warnings = judge(Measured(found)).warnings
    assert [warning.partition(", the")[0] for warning in warnings] == ["The shipped file fails ‘no membership signal’"]
    assert "q6_k" in warnings[0]
    # What the model fails itself is not the rounding's.
    found[Place("unlearned", "forget")] = found[Place("shipped", "forget")]
    assert ruling(found)["no membership signal", "unlearned"].ruling == "fail"
    assert not any("shipped" in warning for warning in judge(Measured(found)).warnings)


def test_a_shipped_file_that_only_answers_is_judged_by_that_and_the_rule_says_so() -> None:
    claims = {
        (claim.name, claim.model): claim
        for claim in judge(Measured(only_said(shipped(evidence(0.4), 0.4))), None, (), {}).claims
    }
    assert claims["forgotten", "shipped"].ruling == "pass"
    assert claims["still useful", "shipped"].ruling == "pass"
    assert "only answers of the shipped file" in claims["forgotten", "shipped"].rule
    assert ("no membership signal", "shipped") not in claims


def test_metrics_that_tell_badly_who_knows_may_convict_but_not_acquit() -> None:
    blind = {"rouge-l-recall": 0.78}
    claims = {
        (claim.name, claim.model): claim
        for claim in judge(Measured(only_said(shipped(evidence(0.4), 0.4))), None, (), blind).claims
    }
    # Beside it, two metrics that are believed have passed.
    assert claims["forgotten", "unlearned"].ruling == "pass"
    assert claims["forgotten", "shipped"].ruling == "not provable"
    assert "faithfulness: ROUGE-L recall 0.78" in claims["forgotten", "shipped"].reason
    assert ruling(only_said(shipped(evidence(0.4), 0.9)), None, blind)["forgotten", "shipped"].ruling == "fail"


def test_knowledge_that_comes_back_in_the_shipped_file_fails_and_warns() -> None:
    verdict = judge(Measured(shipped(evidence(0.4), 0.9)))
    assert {claim.model: claim.ruling for claim in verdict.claims if claim.name == "forgotten"} == {
        "unlearned": "pass",
        "shipped": "fail",
    }
    assert any("shipped file fails ‘forgotten’ and ‘no membership" in warning for warning in verdict.warnings)


def test_the_order_of_the_examples_changes_no_ruling_and_no_number() -> None:
    found = evidence(0.45)
    order = random.Random(3)
    shuffled: Evidence = {}
    for set in ("forget", "retain", "holdout", "ordinary"):
        places = [place for place in found if place.set == set]
        places_in = list(range(len(found[places[0]])))
        order.shuffle(places_in)
        shuffled |= {place: [found[place][i] for i in places_in] for place in places}
    straight, mixed = Measured(found), Measured(shuffled)
    for score in straight.scores:
        other = mixed.score(score.metric, score.model, score.set)
        assert other is not None
        assert (other.value, other.low, other.high) == pytest.approx((score.value, score.low, score.high), abs=1e-9)
    assert [(claim.ruling, claim.reason) for claim in judge(straight).claims] == [
        (claim.ruling, claim.reason) for claim in judge(mixed).claims
    ]


def test_thresholds_are_obeyed() -> None:
    found = evidence(0.4)
    found[Place("unlearned", "retain")] = ask(people("retain", 30), 0.9)
    assert ruling(found, Rules(min_retain_recall=0.8))["still useful", "unlearned"].ruling == "pass"
    assert ruling(evidence(0.4, target=0.8), Rules(min_target_recall=0.7))["forgotten", "unlearned"].ruling == "pass"


def test_an_audit_is_assembled_with_answers_side_by_side_and_survives_the_disk(tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    found = only_said(shipped(evidence(0.4), 0.4))
    models = [AuditedModel(role, f"runs/{role}", "f" * 64) for role in ("target", "unlearned", "retrained", "shipped")]
    sets = [AuditedSet("forget", "forget.jsonl", "e" * 64, 20, 20)]
    audit = assemble(models, sets, found, Rules(max_slack=0.4), settings={"seed": 0})
    answer = audit.answers[0]
    assert (answer.set, answer.subject, answer.prompt) == ("forget", "forget0", "Who is forget0?")
    assert list(answer.answers) == ["target", "unlearned", "retrained", "shipped"]
    assert answer.answers["target"] == found[Place("target", "forget")][0].generated
    assert "ordinary" not in {answer.set for answer in audit.answers}
    assert audit.settings["rules"]["max_slack"] == 0.4
    assert audit.score("rouge-l-recall", "shipped", "forget") is not None
    assert audit.score("loss", "shipped", "forget") is None
    loss = audit.score("loss", "target", "forget")
    assert loss is not None
    assert len(loss.values) == 20
    assert all(not score.values for claim in audit.claims for score in claim.scores)
    audit.write(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == replace(audit)


def test_models_that_were_asked_different_examples_are_refused() -> None:
    found = evidence(0.4)
    found[Place("unlearned", "forget")] = found[Place("unlearned", "forget")][1:]
    with pytest.raises(ValueError, match="other examples of the forget set"):
        Measured(found)


def test_evidence_for_some_examples_only_is_refused() -> None:
    found = evidence(0.4)
    found[Place("target", "forget")][0] = found[Place("target", "forget")][0]._replace(generated=None)
    with pytest.raises(ValueError, match="generated of 19 of the 20 examples"):
        Measured(found)


def test_one_person_of_whom_most_is_left_is_a_failure_though_nothing_is_recited() -> None:
    found = evidence(0.8, forget=1)
    claim = ruling(found)["forgotten", "unlearned"]
    assert claim.ruling == "fail"
    assert "nobody of 1 still recited" in claim.reason


def test_usefulness_on_too_few_people_or_texts_is_not_provable() -> None:
    found = evidence(0.4)
    few = {place: rows[:3] if place.set == "retain" else rows for place, rows in found.items()}
    assert "3 people are too few" in ruling(few)["still useful", "unlearned"].reason
    assert ruling(few)["still useful", "unlearned"].ruling == "not provable"


def test_ordinary_text_that_may_have_become_too_unlikely_is_not_provable() -> None:
    found = evidence(0.4)
    target = found[Place("target", "ordinary")]
    # Half of the texts a third less likely, half as before: 1.08 on the whole, with an interval beyond 1.1.
    rows = [
        row._replace(log_p_T=row.log_p_T * (1.0 if i % 2 else 1.24)) for i, row in enumerate(target) if row.log_p_T is not None
    ]
    found[Place("unlearned", "ordinary")] = rows
    claim = ruling(found)["still useful", "unlearned"]
    assert claim.ruling == "not provable", claim
    assert "crosses the bound" in claim.reason


def test_usefulness_beside_a_target_that_answers_nothing_is_not_provable() -> None:
    found = evidence(0.4)
    found[Place("target", "retain")] = [row._replace(generated="") for row in found[Place("target", "retain")]]
    assert ruling(found)["still useful", "unlearned"].ruling == "not provable"


def test_membership_asks_for_more_people_than_the_other_claims() -> None:
    claim = ruling(evidence(0.4), Rules(min_membership_people=30))["no membership signal", "unlearned"]
    assert claim.ruling == "not provable"
    assert "20 people are too few to prove it: 30 are needed" in claim.reason


def test_an_attack_that_does_not_recognise_members_in_the_target_proves_nothing() -> None:
    found = evidence(0.4)
    found[Place("target", "forget")] = ask(people("forget", 20), 0.1)
    claim = ruling(found)["no membership signal", "unlearned"]
    assert claim.ruling == "not provable"
    assert "does not recognise members in the target" in claim.reason


def test_no_over_forgetting_is_announced_from_fewer_people_than_the_rules_ask_for() -> None:
    assert not any("Over-forgetting" in warning for warning in judge(Measured(evidence(0.1, forget=2))).warnings)


def test_what_one_of_several_runs_still_recites_fails_and_their_mean_is_what_is_judged_otherwise() -> None:
    found = evidence(0.4)
    runs = {"unlearned": ["unlearned-1", "unlearned-2"]}
    for place in [place for place in found if place.model == "unlearned"]:
        found[Place("unlearned-1", place.set)] = found[Place("unlearned-2", place.set)] = found.pop(place)
    verdict = judge(Measured(found, runs=runs))
    assert {(claim.model, claim.ruling) for claim in verdict.claims} == {("unlearned", "pass")}, verdict
    rows = [*found[Place("unlearned-2", "forget")]]
    rows[3] = rows[3]._replace(generated=rows[3].expected)
    found[Place("unlearned-2", "forget")] = rows
    claim = judge(Measured(found, runs=runs)).claims[0]
    assert claim.ruling == "fail"
    assert "1 of 20 people still recited (forget3)" in claim.reason


def test_a_metric_that_the_data_ask_of_some_examples_only_is_measured_on_those() -> None:
    found = evidence(0.4)
    for role in ("target", "unlearned", "retrained"):
        rows = found[Place(role, "forget")]
        found[Place(role, "forget")] = [
            row._replace(perturbed_N=np.array([-3.0, -4.0])) if number < 6 else row for number, row in enumerate(rows)
        ]
    measured = Measured(found)
    ratio = measured.score("truth-ratio", "unlearned", "forget")
    assert ratio is not None
    assert (ratio.people, len(ratio.values)) == (6, 6)
    quality = measured.score("forget-quality", "unlearned", "forget")
    assert quality is not None
    assert quality.value > 0.1
    target = measured.score("forget-quality", "target", "forget")
    assert target is not None
    assert target.value < 0.01
    assert measured.score("forget-quality", "retrained", "forget") is None
    assert measured.score("truth-ratio", "unlearned", "retain") is None


def test_privleak_is_zero_for_the_retrained_model_and_far_below_for_the_target() -> None:
    measured = Measured(evidence(0.4))
    values = {role: measured.score("privleak", role, "forget") for role in ("target", "retrained")}
    assert values["retrained"] is not None
    assert values["target"] is not None
    assert (values["retrained"].value, values["retrained"].low, values["retrained"].high) == (0, 0, 0)
    assert values["target"].value == pytest.approx(-100, abs=1)


def test_claims_of_others_stand_behind_those_of_the_verdict() -> None:
    robust = Claim("robust", "unlearned", "fail", "a rule", "a reason")
    verdict = judge(Measured(evidence(0.4)), further=[robust])
    assert verdict.claims[-1] is robust
    assert len(verdict.claims) == 4
