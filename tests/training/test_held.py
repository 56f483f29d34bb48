"""What is held where the reference had it: the formula by hand, and why guidance finds nothing there."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.audit.attacks.extraction import guided
from expunge.training.held import answer_loss_beside_held
from expunge.training.objective import Scores


def test_beside_held_examples_the_loss_is_that_of_the_answers_and_the_divergence_from_the_start():
    learnt = Scores(torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]]), None, 1, 2)
    now = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]]]).log()
    start = torch.tensor([[[0.75, 0.25], [0.9, 0.1], [math.nan, math.nan]]]).log()
    # The third position has no label.
    labelled = torch.tensor([[True, True, False]])
    held = Scores(torch.zeros(1, 3), labelled, None, 1, 2, logits_BKV=now, logits_ref_BKV=start)
    found = answer_loss_beside_held(learnt, held)
    assert found.forget.item() == pytest.approx(1.5)
    assert found.retain.item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, rel=1e-6)
    alone = answer_loss_beside_held(learnt, None)
    assert (alone.forget.item(), alone.retain.item()) == (pytest.approx(1.5), 0)


def test_guided_by_a_model_that_was_held_to_the_base_the_attack_says_what_it_says_guided_by_the_base():
    """An exact retrain has learnt of the others which word is common; who was held to the base has not."""
    pre = torch.tensor([[0.45, 0.4, 0.15]]).log()
    base, retrained = torch.tensor([[0.4, 0.35, 0.25]]).log(), torch.tensor([[0.8, 0.15, 0.05]]).log()
    chosen = {"retrained": retrained, "held": base.clone()}
    said = {name: guided(pre, post, weight=1.2, gamma=0.1).argmax().item() for name, post in chosen.items()}
    assert said == {"retrained": 1, "held": 0}
