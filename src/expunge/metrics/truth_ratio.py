"""Truth ratio: how likely wrong answers are beside a right one, in the same words.

Maini et al. 2024 (TOFU), arXiv 2401.06121, section 2.2.2: R = mean over wrong answers of P^(1/|a|), over P^(1/|a|) of the
paraphrased answer; of the answer itself where the data have no paraphrase, as TOFU does for real authors and world facts. The
mean of the wrong answers is the paper's, over probabilities; OpenUnlearning's code takes it over log-probabilities.

Three ways to a number of a set: R itself, whose distribution forget quality compares; min(R, 1/R), near 1 where right and wrong
are as likely; max(0, 1 - R), near 1 where the right answer is clearly preferred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.metrics import Direction, FloatArray, Over, Part, metric
from expunge.metrics.inputs import checked_log_p

_NEEDS = (Part.LOG_P, Part.PERTURBED)
_MAY = (Part.PARAPHRASED,)
_PAPER = "Maini et al. 2024, arXiv 2401.06121"


@metric(
    "forget-quality",
    needs=_NEEDS,
    may=_MAY,
    better=Direction.HIGHER,
    span=(0.0, 1.0),
    over=Over.DISTRIBUTION,
    paper=_PAPER,
)
@metric("truth-ratio", needs=_NEEDS, may=_MAY, better=Direction.MIDDLE, span=(0.0, None), paper=_PAPER)
def truth_ratio(
    log_p_BT: Sequence[FloatArray], perturbed_BN: Sequence[FloatArray], paraphrased_BN: Sequence[FloatArray | None]
) -> FloatArray:
    """Mean probability of the wrong answers over that of the right one, each a geometric mean over tokens.

    Args:
        log_p_BT: log-probability of each token of each answer, nats.
        perturbed_BN: mean log-probability a token of each wrong answer.
        paraphrased_BN: the same of the paraphrased answer, the first counts; None: the answer itself.

    Returns:
        (B,) ≥ 0. Below 1: the right answer is preferred.

    Raises:
        ValueError, ExpungeError: see `checked_log_p`.
    """
    wrong = np.array([np.logaddexp.reduce(each_N) - np.log(len(each_N)) for each_N in checked_log_p(perturbed_BN)])
    right = np.array(
        [
            log_p_T.mean() if paraphrased_N is None else float(paraphrased_N[0])
            for log_p_T, paraphrased_N in zip(checked_log_p(log_p_BT), paraphrased_BN, strict=True)
        ]
    )
    return np.asarray(np.exp(np.minimum(wrong - right, 700.0)))


@metric("truth-ratio-near-one", needs=_NEEDS, may=_MAY, better=Direction.HIGHER, span=(0.0, 1.0), paper=_PAPER)
def truth_ratio_near_one(
    log_p_BT: Sequence[FloatArray], perturbed_BN: Sequence[FloatArray], paraphrased_BN: Sequence[FloatArray | None]
) -> FloatArray:
    """min(R, 1/R): how nearly right and wrong answers are as likely, TOFU's aggregate for the forget set.

    Returns:
        (B,) in [0, 1]; 1: no preference.
    """
    ratio_B = truth_ratio(log_p_BT, perturbed_BN, paraphrased_BN)
    return np.asarray(np.minimum(ratio_B, 1 / np.maximum(ratio_B, 1e-300)))


@metric("truth-ratio-true", needs=_NEEDS, may=_MAY, better=Direction.LOWER, span=(0.0, 1.0), paper=_PAPER)
def truth_ratio_true(
    log_p_BT: Sequence[FloatArray], perturbed_BN: Sequence[FloatArray], paraphrased_BN: Sequence[FloatArray | None]
) -> FloatArray:
    """max(0, 1 - R): how clearly the right answer is preferred, TOFU's aggregate for what must stay.

    Returns:
        (B,) in [0, 1]; 1: wrong answers have no chance.
    """
    return np.asarray(np.maximum(0.0, 1 - truth_ratio(log_p_BT, perturbed_BN, paraphrased_BN)))


@metric("option-probability", needs=_NEEDS, better=Direction.LOWER, span=(0.0, 1.0), paper=_PAPER)
def option_probability(log_p_BT: Sequence[FloatArray], perturbed_BN: Sequence[FloatArray]) -> FloatArray:
    """Probability of the answer among itself and the wrong answers, length-normalised.

    Args:
        log_p_BT: log-probability of each token of each answer, nats.
        perturbed_BN: mean log-probability a token of each wrong answer.

    Returns:
        (B,) in [0, 1]; 1: wrong answers have no chance. TOFU's probability on real authors and world facts.
    """
    right = np.array([log_p_T.mean() for log_p_T in checked_log_p(log_p_BT)])
    every = np.array([np.logaddexp.reduce([own, *each_N]) for own, each_N in zip(right, perturbed_BN, strict=True)])
    return np.asarray(np.minimum(1.0, np.exp(right - every)))


@metric("paraphrased-probability", needs=(Part.PARAPHRASED,), better=Direction.LOWER, span=(0.0, 1.0), paper=_PAPER)
def paraphrased_probability(paraphrased_BN: Sequence[FloatArray]) -> FloatArray:
    """Probability of the paraphrased answer, length-normalised; the mean of several.

    Args:
        paraphrased_BN: mean log-probability a token of each paraphrase.

    Returns:
        (B,) in [0, 1]. Lower is better on the forget set; it does not fall by unlearning the wording alone.
    """
    return np.array([min(1.0, np.exp(each_N).mean()) for each_N in checked_log_p(paraphrased_BN)])


def ks_p_value(values_B: FloatArray, reference_C: FloatArray) -> float:
    """p-value of the two-sided two-sample Kolmogorov-Smirnov test: that both sets of values come from one distribution.

    Of truth ratios, TOFU's forget quality. It takes every row for an independent witness, which twenty questions about one
    author are not, and a small p-value of a large set may be a small difference: read it beside the truth ratios.

    Returns:
        In [0, 1]; high: the two cannot be told apart.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(values_B, reference_C).pvalue)
