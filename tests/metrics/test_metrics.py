"""Metrics against hand calculations and against the libraries that define them."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from expunge.errors import ExpungeError
from expunge.metrics import METRICS, Direction, Over, metric
from expunge.metrics.auc import auc, tpr_at_fpr
from expunge.metrics.exact_memorisation import exact_memorisation
from expunge.metrics.extraction_strength import extraction_strength
from expunge.metrics.loss import loss, loss_membership
from expunge.metrics.min_k import min_k
from expunge.metrics.perplexity import perplexity, totals
from expunge.metrics.probability import probability
from expunge.metrics.rouge_l import longest_common_subsequence, rouge_l_recall

LOG_P = [np.log(np.array([0.5, 0.25, 0.125], np.float32)), np.log(np.array([1.0], np.float32))]
"""Two answers: one of three tokens, a certain one of one."""


def hits(*rows: str) -> list[np.ndarray]:
    """`110` → the first two tokens are hits."""
    return [np.array([letter == "1" for letter in row]) for row in rows]


def test_probability_is_the_geometric_mean_of_the_token_probabilities() -> None:
    assert probability(LOG_P) == pytest.approx([(0.5 * 0.25 * 0.125) ** (1 / 3), 1.0])


def test_loss_is_the_mean_of_the_token_losses_and_its_membership_score_the_reverse() -> None:
    by_hand = [(np.log(2) + np.log(4) + np.log(8)) / 3, 0.0]
    assert loss(LOG_P) == pytest.approx(by_hand)
    assert loss_membership(LOG_P) == pytest.approx([-value for value in by_hand])


def test_perplexity_counts_every_token_once_however_long_the_text() -> None:
    sums = totals(LOG_P)
    assert sums.tokens_B.tolist() == [3, 1]
    assert float(perplexity(sums.nats_B.sum() / sums.tokens_B.sum())) == pytest.approx(64 ** (1 / 4))


def test_the_perplexity_of_a_collapsed_model_is_a_number() -> None:
    assert np.isfinite(perplexity(np.array(5000.0)))


def test_exact_memorisation_is_the_share_of_hits() -> None:
    assert exact_memorisation(hits("1101", "0", "1")).tolist() == [0.75, 0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "strength"), [("1111", 1.0), ("0111", 0.75), ("1011", 0.5), ("0101", 0.25), ("1110", 0.0), ("0", 0.0), ("1", 1.0)]
)
def test_extraction_strength_is_the_share_that_greedy_decoding_finishes_and_reaches_zero(row: str, strength: float) -> None:
    assert extraction_strength(hits(row)).tolist() == [strength]


def test_extraction_strength_equals_a_search_for_the_shortest_prefix() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.random(rng.integers(1, 12)) < 0.7 for _ in range(200)]
    by_search = [1 - next(k for k in range(row.size + 1) if row[k:].all()) / row.size for row in rows]
    assert extraction_strength(rows) == pytest.approx(by_search)


def test_min_k_is_the_mean_of_the_fifth_of_the_tokens_that_is_least_likely() -> None:
    log_p_T = np.array([-1, -9, -2, -3, -7, -1, -1, -1, -1, -1], np.float32)
    assert min_k([log_p_T]).tolist() == [-8]
    assert min_k([log_p_T[:5]]).tolist() == [-9]
    assert min_k([log_p_T[:6]]).tolist() == [-8]  # a fifth of 6 tokens is rounded up to 2
    assert min_k([log_p_T[:1]]).tolist() == [-1]
    assert min_k([log_p_T], share=1) == pytest.approx(-loss([log_p_T]))
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        min_k([log_p_T], share=0)


@pytest.mark.parametrize("name", ["probability", "loss", "loss-auc", "min-k-auc", "perplexity"])
def test_a_model_that_gives_nan_is_refused_by_every_metric_of_log_probabilities(name: str) -> None:
    for broken in (np.nan, -np.inf):
        with pytest.raises(ExpungeError, match="example 2"):
            METRICS[name].measure([LOG_P[0], np.array([-1, broken])])
    with pytest.raises(ValueError, match="above 0"):
        METRICS[name].measure([np.array([0.5])])
    for nothing in ([], [np.array([])], [np.zeros((2, 2))]):
        with pytest.raises(ValueError, match="at least one"):
            METRICS[name].measure(nothing)


@pytest.mark.parametrize("name", ["exact-memorisation", "extraction-strength"])
def test_metrics_of_hits_refuse_nothing_and_numbers(name: str) -> None:
    for nothing in ([], [np.array([], bool)]):
        with pytest.raises(ValueError, match="at least one"):
            METRICS[name].measure(nothing)
    with pytest.raises(ValueError, match="not bool"):
        METRICS[name].measure([np.array([1, 0])])


NOTES = [
    ("The patient reports headaches, worse at night.", "Patient reported a headache that worsens nightly"),
    ("Start metformin 500 mg twice daily; review in 3 months.", "start Metformin 500mg daily, reviewing in three months"),
    ("Zoë's knee is swollen – 2 cm larger.", "zoe s knee: swelling, 2cm"),
    ("One two three", ""),
    ("a b c a b c", "c b a c b a"),
    ("dies dying generously running policies", "die generous run policy"),
]


def test_rouge_l_recall_equals_the_rouge_score_package_on_odd_and_on_random_texts() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(0)
    words = ["patient", "reports", "reported", "reporting", "pain", "pains", "mg", "500", "the", "of", "daily", "days", "knee"]
    texts = [*NOTES, *((_say(rng, words), _say(rng, words)) for _ in range(150))]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    peer = [scorer.score(expected, generated)["rougeL"].recall for expected, generated in texts]
    ours = rouge_l_recall([generated for _, generated in texts], [expected for expected, _ in texts])
    assert ours == pytest.approx(peer, abs=1e-12)


def _say(rng: random.Random, words: list[str]) -> str:
    return " ".join(rng.choices(words, k=rng.randint(1, 90)))


def test_the_longest_common_subsequence_equals_the_textbook_table() -> None:
    rng = random.Random(1)
    for _ in range(300):
        first, second = (rng.choices("abcd", k=rng.randint(0, 70)) for _ in range(2))
        row = [0] * (len(second) + 1)
        for a in first:
            before = row
            row = [0]
            for j, b in enumerate(second):
                row.append(before[j] + 1 if a == b else max(before[j + 1], row[j]))
        assert longest_common_subsequence(first, second) == row[-1]


def test_rouge_l_recall_of_long_answers_takes_a_fraction_of_the_time_of_the_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(400)]
    texts = [(" ".join(rng.choices(words, k=150)), " ".join(rng.choices(words, k=150))) for _ in range(12)]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    start = time.process_time()
    for expected, generated in texts:
        scorer.score(expected, generated)
    middle = time.process_time()
    rouge_l_recall([generated for _, generated in texts], [expected for expected, _ in texts])
    assert time.process_time() - middle < (middle - start) / 2  # measured: a tenth


def test_an_expected_answer_without_a_word_that_rouge_counts_is_refused_not_scored_zero() -> None:
    with pytest.raises(ExpungeError, match="病歴"):
        rouge_l_recall(["病歴"], ["病歴"])
    with pytest.raises(ValueError, match="1 generated answers for 2"):
        rouge_l_recall(["a"], ["a", "b"])


def test_auc_and_tpr_equal_scikit_learn_with_ties_and_without() -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    for digits in (1, 6):
        for members, others in ((4, 4), (7, 300), (200, 150)):
            first, second = rng.normal(0.5, 1, members).round(digits), rng.normal(0, 1, others).round(digits)
            labels, scores = [1] * members + [0] * others, np.concatenate([first, second])
            assert auc(first, second) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
            fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
            for limit in (0.01, 0.1):
                assert tpr_at_fpr(first, second, limit) == pytest.approx(tpr[fpr <= limit].max(), abs=1e-12)


def test_auc_counts_a_tie_half_and_below_half_says_that_members_are_less_likely() -> None:
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert auc(np.array([-2.0, -3.0]), np.array([-1.0, -1.0])) == 0.0
    with pytest.raises(ValueError, match="finite"):
        auc(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="at least one"):
        auc(np.array([]), np.array([1.0]))


def test_every_metric_of_examples_stays_within_its_span() -> None:
    rng = np.random.default_rng(0)
    log_p = [-rng.gamma(0.5, 3, rng.integers(1, 30)).astype(np.float32) for _ in range(100)] + [np.full(3, 5e-7, np.float32)]
    given = {
        "log_p_T": log_p,
        "hits_T": [row > -0.5 for row in log_p],
        "generated": [f"knee pain {i}" for i in range(101)],
        "expected": ["the knee pains 7"] * 101,
        "prompt": ["Where is it?"] * 101,
        "perturbed_N": [-rng.gamma(2, 2, 5) for _ in range(101)],
        "paraphrased_N": [-rng.gamma(2, 2, 1) for _ in range(101)],
        "letters_N": [-rng.gamma(2, 2, 4) for _ in range(101)],
        "options_N2": [np.stack([-rng.gamma(2, 9, 4), rng.integers(1, 30, 4)], 1) for _ in range(101)],
        "permuted_PN": [-rng.gamma(2, 2, (3, 4)) for _ in range(101)],
        "right": [i % 4 for i in range(101)],
        "prefixed": [""] + [f"a knee pain {i}" for i in range(100)],
        "samples": [tuple(f"pain {i} {j}" for j in range(9)) for i in range(101)],
        "lens_L": [-rng.gamma(2, 2, 5) for _ in range(101)],
    }
    checked = set()
    for name in METRICS:
        found = METRICS[name]
        if found.over is Over.EXAMPLES:
            values = found.measure(*(given[part] for part in (*found.needs, *found.may)))
            low, high = found.span
            assert values.shape == (101,)
            assert values.min() >= low, name
            assert high is None or values.max() <= high, name
            checked.add(name)
    assert {"probability", "rouge-l-f1", "truth-ratio", "exposure", "leak-at-8", "multiple-choice-permuted"} < checked


def test_the_registry_finds_each_file_and_suggests_a_name_and_refuses_a_second_of_one_name() -> None:
    assert {"loss-auc", "min-k-auc", "perplexity", "rouge-l-recall"} < set(METRICS)
    assert METRICS["rouge-l-recall"].better is Direction.LOWER
    with pytest.raises(ExpungeError, match='did you mean "rouge-l-recall"'):
        METRICS["rouge-l-recal"]
    with pytest.raises(ValueError, match="twice"):
        metric("loss", needs=(), better=Direction.LOWER, span=(0, 1), paper="")(loss)


def test_every_metric_says_what_it_returns_in_its_docstring() -> None:
    for name in METRICS:
        assert METRICS[name].summary, name
        assert METRICS[name].paper, name


def test_importing_the_metrics_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from expunge.metrics import METRICS; list(METRICS); import expunge.audit.verdict, expunge.audit.assemble; "
        "print([m for m in ('torch', 'scipy', 'sklearn', 'rouge_score', 'nltk', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
