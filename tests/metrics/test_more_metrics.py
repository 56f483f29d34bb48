"""The metrics beyond the first eight, against hand calculations and formulas written out anew."""

from __future__ import annotations

import itertools
import math
import random
import zlib

import numpy as np
import pytest

from expunge.errors import ExpungeError
from expunge.metrics.edit_similarity import edit_similarity, levenshtein
from expunge.metrics.exposure import exposure
from expunge.metrics.fluency import fluency
from expunge.metrics.gradient_norm import gradient_norm
from expunge.metrics.key_entities import key_entities, key_entity_leak
from expunge.metrics.leak_at_k import expected_greatest, leak_at_k
from expunge.metrics.linear_probe import linear_probe, linear_probe_control
from expunge.metrics.logit_lens import logit_lens
from expunge.metrics.min_k import min_k_40
from expunge.metrics.min_k_plus_plus import min_k_plus_plus
from expunge.metrics.model_utility import harmonic_mean
from expunge.metrics.multiple_choice import by_letter, in_every_order, written_out
from expunge.metrics.privleak import privleak
from expunge.metrics.reference_attack import reference_attack
from expunge.metrics.rouge_l import rouge_l_f1
from expunge.metrics.truth_ratio import (
    ks_p_value,
    option_probability,
    paraphrased_probability,
    truth_ratio,
    truth_ratio_near_one,
    truth_ratio_true,
)
from expunge.metrics.zlib_ratio import zlib_ratio

LOG_P = [np.log([0.5, 0.25]), np.log([0.9])]


def test_the_truth_ratio_is_the_papers_mean_of_probabilities_over_that_of_the_paraphrase() -> None:
    rng = np.random.default_rng(0)
    wrong, right = [-rng.gamma(2, 1, 5) for _ in range(40)], [-rng.gamma(2, 1, 1) for _ in range(40)]
    log_p = [-rng.gamma(1, 1, 7) for _ in range(40)]
    by_hand = [np.exp(w).mean() / math.exp(r[0]) for w, r in zip(wrong, right, strict=True)]
    assert truth_ratio(log_p, wrong, right) == pytest.approx(by_hand, abs=1e-9)
    assert truth_ratio_near_one(log_p, wrong, right) == pytest.approx([min(r, 1 / r) for r in by_hand], abs=1e-9)
    assert truth_ratio_true(log_p, wrong, right) == pytest.approx([max(0, 1 - r) for r in by_hand], abs=1e-9)
    # Where the data have no paraphrase, the answer itself stands below the line.
    own = [np.exp(w).mean() / math.exp(mine.mean()) for w, mine in zip(wrong, log_p, strict=True)]
    assert truth_ratio(log_p, wrong, [None] * 40) == pytest.approx(own, abs=1e-9)
    among = [math.exp(mine.mean()) / (math.exp(mine.mean()) + np.exp(w).sum()) for w, mine in zip(wrong, log_p, strict=True)]
    assert option_probability(log_p, wrong) == pytest.approx(among, abs=1e-9)
    assert paraphrased_probability(right) == pytest.approx([math.exp(r[0]) for r in right])
    with pytest.raises(ExpungeError, match="not a number"):
        truth_ratio([np.array([np.nan])], wrong[:1], right[:1])


def test_model_utility_differs_from_open_unlearnings_by_the_mean_of_the_wrong_answers_alone() -> None:
    rng = np.random.default_rng(1)
    wrong, log_p = [-rng.gamma(2, 1, 5) for _ in range(40)], [-rng.gamma(2, 0.5, 7) for _ in range(40)]
    # Its formula, written anew: losses are averaged over the wrong answers, and probabilities are made of the mean.
    theirs = [math.exp(w.mean()) / math.exp(own.mean()) for w, own in zip(wrong, log_p, strict=True)]
    one_wrong = [w.mean(keepdims=True) for w in wrong]
    assert truth_ratio(log_p, one_wrong, [None] * 40) == pytest.approx(theirs, abs=1e-9)
    # The paper's mean, of probabilities, is never the smaller, and model utility never the larger.
    ours = truth_ratio(log_p, wrong, [None] * 40)
    assert (ours >= theirs).all()
    utility = [
        float(harmonic_mean(np.array([0.4, 0.5, truth_ratio_true(log_p, each, [None] * 40).mean()])))
        for each in (wrong, one_wrong)
    ]
    assert utility[0] < utility[1]


def test_a_collapsed_model_has_a_finite_truth_ratio() -> None:
    assert np.isfinite(truth_ratio([np.array([-2000.0])], [np.array([-1.0])], [None])).all()
    assert truth_ratio_near_one([np.array([-1.0])], [np.array([-2000.0])], [None]).tolist() == [0.0]


def test_forget_quality_is_the_p_value_of_scipy_and_near_zero_for_another_distribution() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 1, 80), rng.normal(0.2, 1, 70)
    assert ks_p_value(first, second) == ks_2samp(first, second).pvalue
    assert ks_p_value(first, first + 9) < 1e-20
    # Smirnov's statistic by hand: of (1, 2) and (3, 4) it is 1, and of the 6 orders 2 are as extreme.
    assert ks_p_value(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == pytest.approx(1 / 3)


def test_min_k_plus_plus_equals_the_authors_formula_on_the_same_logits() -> None:
    import torch

    logits_TV = torch.randn(30, 50, generator=torch.Generator().manual_seed(0)).double() * 3
    labels_T = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(1))
    log_p_TV = logits_TV.log_softmax(-1)
    token_T = log_p_TV.gather(1, labels_T[:, None])[:, 0]
    mean_T = (log_p_TV.exp() * log_p_TV).sum(-1)
    variance_T = (log_p_TV.exp() * log_p_TV.square()).sum(-1) - mean_T.square()
    standard = ((token_T - mean_T) / variance_T.sqrt()).sort().values[:6].mean().item()
    given = (token_T.numpy(), (-mean_T).numpy(), variance_T.numpy())
    assert min_k_plus_plus(*([each] for each in given)).tolist() == pytest.approx([standard], abs=1e-6)
    # A sure model has no variance, and must not be divided by it.
    assert np.isfinite(min_k_plus_plus([np.array([0.0])], [np.array([0.0])], [np.array([0.0])])).all()
    assert min_k_40([token_T.numpy()]).tolist() == pytest.approx([token_T.sort().values[:12].mean().item()], abs=1e-9)


def test_zlib_reference_and_gradient_attacks_call_the_better_known_the_likelier_member() -> None:
    texts = ["aaaa bbbb", "other"]
    expected = [LOG_P[i].mean() / len(zlib.compress(text.encode())) for i, text in enumerate(texts)]
    assert zlib_ratio(LOG_P, texts) == pytest.approx(expected)
    assert reference_attack(LOG_P, [each * 2 for each in LOG_P]) == pytest.approx([-each.mean() for each in LOG_P])
    assert gradient_norm([1.0, 5.0]).tolist() == [-1.0, -5.0]


def test_privleak_is_zero_beside_its_like_negative_where_members_are_known_and_positive_beyond() -> None:
    assert privleak(np.array(0.5), np.array(0.5)) == 0
    assert privleak(np.array(1.0), np.array(0.5)) == -100
    assert privleak(np.array(0.2), np.array(0.5)) == pytest.approx(60)
    assert np.isfinite(privleak(np.array(0.0), np.array(1.0)))


def test_exposure_is_the_bits_by_which_the_rank_shrinks_the_space() -> None:
    others = np.log([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert exposure([np.log([0.9])], [others]).tolist() == [3.0]
    assert exposure([np.log([0.05])], [others]).tolist() == [0.0]
    assert exposure([np.log([0.55])], [others]) == pytest.approx([3 - math.log2(3)])
    assert exposure([np.log([0.7])], [others]).tolist() == [2.0]  # a tie counts against it


def test_the_expected_worst_of_k_answers_is_the_mean_over_all_choices() -> None:
    scores = np.array([0.1, 0.9, 0.9, 0.0, 0.4])
    for k in range(1, 6):
        by_hand = np.mean([max(chosen) for chosen in itertools.combinations(scores, k)])
        assert expected_greatest(scores, k) == pytest.approx(by_hand)
    n, c, k = 20, 3, 5
    assert expected_greatest(np.array([1.0] * c + [0.0] * (n - c)), k) == pytest.approx(
        1 - math.comb(n - c, k) / math.comb(n, k)
    )
    assert leak_at_k([["knee pain"] + ["no"] * 7], ["knee pain"]).tolist() == [1.0]
    with pytest.raises(ValueError, match="8 tries of 2"):
        leak_at_k([["a", "b"]], ["a"])


def test_rouge_l_f1_equals_the_rouge_score_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(0)
    words = ["patient", "reports", "reported", "pain", "pains", "mg", "500", "the", "of", "daily"]
    said, due = ([" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(80)] for _ in range(2))
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    peer = [scorer.score(expected, own)["rougeL"].fmeasure for own, expected in zip(said, due, strict=True)]
    assert rouge_l_f1(said, due) == pytest.approx(peer, abs=1e-12)
    assert rouge_l_f1([""], ["knee"]).tolist() == [0.0]


def test_word_edits_equal_the_textbook_table() -> None:
    rng = random.Random(3)
    for _ in range(300):
        first, second = (rng.choices("abcd", k=rng.randint(0, 70)) for _ in range(2))
        row = list(range(len(second) + 1))
        for i, a in enumerate(first, 1):
            before, row = row, [i]
            for j, b in enumerate(second, 1):
                row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
        assert levenshtein(first, second) == row[-1]
    assert edit_similarity(["take 500 mg daily"], ["take 250 mg daily"]).tolist() == [0.75]
    assert edit_similarity(["", "knees"], ["knee", "knee"]).tolist() == [0.0, 1.0]


def test_key_entities_are_names_and_numbers_that_the_question_does_not_say() -> None:
    answer = "Jane was born in Lyon on 1980-05-03. She saw Dr. Weiss about 500mg of aspirin."
    assert key_entities(answer, "Where was Jane born?") == {"lyon", "1980-05-03", "weiss", "500mg"}
    found = key_entity_leak(["It was lyon, in 1980.", "", "no"], [answer, answer, "it is small"], ["Where?"] * 3)
    assert found[:2].tolist() == pytest.approx([1 / 4, 0.0])
    assert np.isnan(found[2]), "an answer without an entity says nothing about leaking one"


def test_fluency_is_the_weighted_entropy_of_pairs_and_triples() -> None:
    # Pairs ab, ba, ab: 2/3 and 1/3; triples aba, bab: one half each.
    pairs = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert fluency(["a b a b"]) == pytest.approx([(2 / 3 * pairs + 4 / 3 * 1.0) / 2])
    assert fluency(["", "a", "no no no no no"]).tolist() == [0.0, 0.0, 0.0]
    assert fluency(["word " * 50, "each word here is another one than those before"])[0] == 0


def test_choices_are_right_by_letter_by_length_and_in_every_order() -> None:
    assert by_letter([np.log([0.1, 0.6]), np.log([0.7, 0.2])], [1, 1]).tolist() == [1.0, 0.0]
    # The long option has less probability and more of it a character.
    options = np.array([[-4.0, 2], [-6.0, 12]])
    assert written_out([options], [1]).tolist() == [1.0]
    sure = np.log([[0.1, 0.8, 0.1], [0.2, 0.7, 0.1]])
    assert in_every_order([sure[0]], [sure[1:]], [1]).tolist() == [1.0]
    assert in_every_order([sure[0]], [np.log([[0.6, 0.3, 0.1]])], [1]).tolist() == [0.0]


def test_the_lens_takes_the_layer_that_knows_most_before_the_last() -> None:
    assert logit_lens([np.log([0.01, 0.4, 0.2, 0.9])]) == pytest.approx([0.4])


def test_the_harmonic_mean_is_that_of_the_statistics_module_and_nought_with_a_nought() -> None:
    from statistics import harmonic_mean as peer

    values = [0.5, 0.9, 0.1]
    assert harmonic_mean(np.array([values])).tolist() == pytest.approx([peer(values)])
    assert harmonic_mean(np.array([[0.5, 0.0, 1.0]])).tolist() == [0.0]


def test_a_probe_finds_what_stands_apart_and_its_control_does_not() -> None:
    from expunge.metrics.auc import auc

    rng = np.random.default_rng(0)
    members = [rng.normal(0.8, 1, (2, 8)).astype(np.float16) for _ in range(60)]
    others = [rng.normal(0.0, 1, (2, 8)).astype(np.float16) for _ in range(80)]
    people = [f"p{i // 2}" for i in range(60)], [f"q{i // 2}" for i in range(80)]
    sides = linear_probe(members, others, *people)
    assert sides is not None
    assert auc(sides.members_B, sides.others_C) > 0.9
    control = linear_probe_control(members, others, *people)
    assert control is not None
    assert len(control.members_B) + len(control.others_C) == 140
    assert 0.3 < auc(control.members_B, control.others_C) < 0.7
    assert linear_probe(members[:3], others, ["a", "b", "c"], people[1]) is None
