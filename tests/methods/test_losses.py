"""The losses of the methods by hand, and what becomes of them at their limits."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.methods import METHODS, method
from expunge.methods.grad_diff import GradDiff
from expunge.methods.npo import Npo, npo_loss
from expunge.training.objective import Losses, Need, Scores


def scores(log_p_BK, reference=None, *, of_examples=None, of_tokens=None, weights=None):
    """A side of a micro-batch in which every token with a log-probability is labelled, and weighs as much unless said."""
    log_p_BK = torch.as_tensor(log_p_BK)
    labelled_BK = log_p_BK != 0
    reference_B = None if reference is None else torch.tensor(reference)
    weight_BK = labelled_BK.float() if weights is None else torch.tensor(weights)
    counts = of_examples or len(log_p_BK), of_tokens or int(labelled_BK.sum())
    return Scores(log_p_BK, labelled_BK, reference_B, *counts, weight_BK)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 5.0])
def test_npo_is_two_log_two_over_beta_where_nothing_has_changed(beta):
    log_p_B = torch.tensor([-0.1, -30.0, -400.0])
    assert npo_loss(log_p_B, log_p_B, beta).tolist() == pytest.approx([2 * math.log(2) / beta] * 3)


@pytest.mark.parametrize(
    ("log_p", "reference", "beta", "expected"),
    [
        # 2 / beta * log(1 + (p / p_ref) ** beta)
        (math.log(0.5), math.log(0.25), 1.0, 2 * math.log(3)),
        (math.log(0.25), math.log(0.5), 1.0, 2 * math.log(1.5)),
        (math.log(0.09), math.log(0.01), 0.5, 4 * math.log(4)),
        (-100.0, 0.0, 0.1, 20 * math.log1p(math.exp(-10))),
    ],
)
def test_npo_by_hand(log_p, reference, beta, expected):
    assert npo_loss(torch.tensor([log_p]), torch.tensor([reference]), beta).item() == pytest.approx(expected, rel=1e-5)


def test_npo_is_never_negative_and_falls_as_the_answer_becomes_less_likely():
    change_B = torch.linspace(50, -400, 200)
    loss_B = npo_loss(change_B, torch.zeros(200), 0.1)
    assert (loss_B >= 0).all()
    assert (loss_B.diff() < 0).all()


def test_npo_pushes_with_full_weight_at_the_start_and_lets_go_of_what_is_forgotten():
    """Its gradient is that of gradient ascent times 2·p^β / (p^β + p_ref^β): eq. 4 of the paper."""
    log_p_B = torch.tensor([0.0, -10.0, -100.0], requires_grad=True)
    npo_loss(log_p_B, torch.zeros(3), 0.1).sum().backward()
    weights = [2 / (1 + math.exp(-0.1 * float(log_p))) for log_p in log_p_B.detach()]
    assert weights[0] == 1
    assert log_p_B.grad.tolist() == pytest.approx(weights, rel=1e-5)
    assert log_p_B.grad[2] < 1e-4


def test_npo_becomes_gradient_ascent_as_beta_goes_to_zero():
    log_p_B = torch.tensor([-3.0, -20.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference_B = torch.tensor([-1.0, -2.0, -30.0], dtype=torch.float64)
    loss_B = npo_loss(log_p_B, reference_B, 1e-6)
    loss_B.sum().backward()
    ascent_B = log_p_B.detach() - reference_B
    assert (loss_B.detach() - 2 * math.log(2) / 1e-6).tolist() == pytest.approx(ascent_B.tolist(), abs=1e-3)
    assert log_p_B.grad.tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_npo_compares_whole_answers_with_the_reference_and_keeps_the_retain_set():
    forget = scores([[-1.0, -2.0], [-3.0, 0.0]], reference=[-3.0, -1.0])
    retain = scores([[-0.5, -1.5], [-1.0, 0.0]])
    single, double, none = (
        METHODS["npo"].loss(Npo(beta=0.5, retain_weight=weight), forget, retain) for weight in (1.0, 2.0, 0.0)
    )
    # Changes of the two answers: 0 and -2 nats.
    assert single.forget.item() == pytest.approx(4 * (math.log(2) + math.log1p(math.exp(-1))) / 2)
    assert single.retain.item() > 0
    assert double.retain.item() == pytest.approx(2 * single.retain.item())
    assert none.retain.item() == 0


def test_gradient_difference_by_hand():
    forget, retain = scores([[-1.0, -2.0], [-3.0, 0.0]]), scores([[-0.5, 0.0]])
    found = METHODS["grad-diff"].loss(GradDiff(forget_weight=2.0, retain_weight=3.0), forget, retain)
    assert found == Losses(forget=torch.tensor(-2 * 6 / 3), retain=torch.tensor(3 * 0.5))


def test_two_files_must_not_answer_to_one_name():
    assert "npo" in list(METHODS)
    with pytest.raises(ValueError, match="method 'npo' is registered twice"):
        method("npo", Npo, needs=(Need.RETAIN,), paper="")(lambda config, forget, retain: Losses(forget.nll, forget.nll))
    assert METHODS["npo"].needs == {Need.REFERENCE, Need.RETAIN}
