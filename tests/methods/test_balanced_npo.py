"""Unlikelihood by hand, and where the balance of the two losses lies."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import ExpungeError
from expunge.methods.balanced_npo import BalancedNpo, loss, unlikelihood
from expunge.methods.npo import Npo
from expunge.methods.npo import loss as npo
from expunge.training.objective import Scores


def side(log_p_BK, reference=None):
    log_p_BK = torch.tensor(log_p_BK)
    labelled_BK = log_p_BK != 0
    reference_B = None if reference is None else torch.tensor(reference)
    counts = len(log_p_BK), int(labelled_BK.sum())
    return Scores(log_p_BK, labelled_BK, reference_B, *counts, labelled_BK.float())


FORGET = side([[math.log(0.5), math.log(0.9)], [math.log(0.25), 0.0]], [-0.5, -0.1])
RETAIN = side([[math.log(0.8), math.log(0.4)]])


@pytest.mark.parametrize("p", [1e-6, 0.25, 0.5, 0.9, 0.999])
def test_unlikelihood_is_the_surprisal_of_anything_else(p):
    assert unlikelihood(torch.tensor([[math.log(p)]], dtype=torch.float64)).item() == pytest.approx(
        -math.log1p(-p), rel=1e-2, abs=2e-6
    )


def test_unlikelihood_moves_a_token_as_far_as_it_is_known_where_npo_moves_it_as_far_as_it_is_not():
    logits_KV = torch.tensor([[8.0, 0.0, 0.0], [2.0, 1.0, 0.0], [-4.0, 1.0, 1.0]], requires_grad=True)
    log_p_K = logits_KV.log_softmax(1)[:, 0]
    unlikelihood(log_p_K[None]).sum().backward(retain_graph=True)
    assert logits_KV.grad[:, 0].tolist() == pytest.approx(log_p_K.exp().tolist(), rel=1e-2)
    logits_KV.grad = None
    log_p_K.sum().backward()
    assert logits_KV.grad[:, 0].tolist() == pytest.approx((1 - log_p_K.exp()).tolist(), rel=1e-4)


def test_a_token_that_is_certain_has_a_finite_loss_and_gradient():
    logits_KV = torch.tensor([[200.0, 0.0]], requires_grad=True)
    value = unlikelihood(logits_KV.log_softmax(1)[None, :, 0]).sum()
    value.backward()
    assert math.isfinite(value.item())
    assert logits_KV.grad.isfinite().all()


def test_without_unlikelihood_it_is_npo():
    plain = npo(Npo(beta=0.5, retain_weight=2.0), FORGET, RETAIN)
    balanced = loss(BalancedNpo(beta=0.5, unlikelihood=0.0, retain_weight=2.0), FORGET, RETAIN)
    assert balanced.forget.item() == pytest.approx(plain.forget.item())
    assert balanced.retain.item() == pytest.approx(plain.retain.item())


def test_the_forget_loss_by_hand_with_unlabelled_positions_left_out():
    only = loss(BalancedNpo(unlikelihood=1.0), FORGET, RETAIN).forget.item()
    assert only == pytest.approx((math.log(2) + math.log(10) + math.log(4 / 3)) / 2, rel=1e-4)
    half = loss(BalancedNpo(beta=0.1, unlikelihood=0.5), FORGET, RETAIN).forget.item()
    assert half == pytest.approx((only + npo(Npo(beta=0.1), FORGET, RETAIN).forget.item()) / 2, rel=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ExpungeError, match="is no share"):
        loss(BalancedNpo(unlikelihood=share), FORGET, RETAIN)
