"""Blur: the formula by hand, and why guidance finds nothing in a blurred model."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.audit.attacks.extraction import guided
from expunge.errors import ExpungeError
from expunge.methods.blur import Blur, blur_loss, loss
from expunge.training.objective import Scores

# One position, four tokens; the second and the third were the likeliest before the first step.
LOGITS = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]).log()
BEFORE = torch.tensor([[[0.1, 0.5, 0.3, 0.1]]]).log()
LABELS = torch.tensor([[3]])


def test_the_answers_word_has_its_share_and_the_plausible_ones_the_rest_equally():
    found = blur_loss(LOGITS, BEFORE, LABELS, plausible=2, answer_share=0.4)
    assert found.item() == pytest.approx(-0.4 * math.log(0.4) - 0.3 * math.log(0.2) - 0.3 * math.log(0.3))


def test_with_the_whole_share_it_is_the_negative_log_likelihood_and_with_none_of_it_blurring_alone():
    assert blur_loss(LOGITS, BEFORE, LABELS, plausible=2, answer_share=1).item() == pytest.approx(-math.log(0.4))
    every = blur_loss(LOGITS, BEFORE, LABELS, plausible=99, answer_share=0)
    assert every.item() == pytest.approx(-sum(map(math.log, (0.1, 0.2, 0.3, 0.4))) / 4)
    # Nothing is more blurred than all words equally likely.
    assert blur_loss(torch.zeros(1, 1, 4), BEFORE, LABELS, plausible=99, answer_share=0).item() == pytest.approx(math.log(4))
    assert every > math.log(4)


def test_guided_by_a_blurred_model_every_weight_above_0_says_what_the_earlier_model_says():
    pre = torch.tensor([[0.4, 0.35, 0.2, 0.05]]).log()
    retrained, blurred = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log(), torch.full((1, 4), 0.25).log()
    for weight in (0.2, 1.2, 3.0):
        assert guided(pre, blurred, weight=weight, gamma=1e-3).argmax() == pre.argmax()
    # An exact retrain tells which of two likely words is of the person.
    assert guided(pre, retrained, weight=1.2, gamma=1e-3).argmax() == 1


@pytest.mark.parametrize("config", [Blur(answer_share=1.5), Blur(plausible=0)])
def test_shares_beyond_one_and_no_plausible_word_are_refused(config):
    scores = Scores(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), None, 1, 1)
    with pytest.raises(ExpungeError, match="--answer-share is a share, and --plausible at least 1"):
        loss(config, scores, scores)
