"""The formulas of the methods: by hand, against their peers' written independently, and what every loss has in common.

The peers' formulas are those of OpenUnlearning (arXiv 2506.12618), on whole batches of logits, with -100 where there is no
label.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from expunge.errors import ExpungeError
from expunge.methods import METHODS
from expunge.methods.ce_u import CeU, ce_u_loss
from expunge.methods.gru import Gru, rectified, step
from expunge.methods.idk_ap import answer_preservation_loss
from expunge.methods.idk_dpo import preference_loss
from expunge.methods.pdu import Pdu, flatness_loss, next_multiplier
from expunge.methods.rmu import Rmu, direction, misdirection_loss
from expunge.methods.satimp import SatImp, satimp_loss
from expunge.methods.simnpo import SimNpo, simnpo_loss
from expunge.methods.ssd import Ssd, dampened
from expunge.methods.task_vector import TaskVector
from expunge.methods.undial import Undial, undial_loss
from expunge.methods.wga import Wga, wga_loss
from expunge.methods.whos_harry_potter import generic_logits
from expunge.training.held import kl_divergence
from expunge.training.objective import Edit, Losses, Scores

STEPPED = [name for name in METHODS if METHODS[name].edit is None]
V, H = 7, 5


def log_p_of(logits_BKV, labels_BK):
    return -F.cross_entropy(logits_BKV.flatten(0, 1), labels_BK.flatten(), ignore_index=-100, reduction="none").view_as(
        labels_BK
    )


def side(logits_BKV, labels_BK, seed, *, hidden_BKH=None, other=None):
    """Everything that a method can ask for, with rubbish wherever there is no label."""
    chance = torch.Generator().manual_seed(seed)
    labelled_BK = labels_BK != -100
    reference, reinforced = (torch.randn(logits_BKV.shape, generator=chance) for _ in range(2))
    hidden = torch.randn(*labels_BK.shape, H, generator=chance) if hidden_BKH is None else hidden_BKH
    weight_BK = torch.rand(labels_BK.shape, generator=chance) * labelled_BK
    return Scores(
        log_p_of(logits_BKV, labels_BK),
        labelled_BK,
        log_p_of(reference, labels_BK).sum(1),
        len(labels_BK),
        int(labelled_BK.sum()),
        weight_BK * labelled_BK.sum(1, keepdim=True) / weight_BK.sum(1, keepdim=True),
        labels_BK,
        logits_BKV,
        reference,
        reinforced,
        hidden,
        torch.randn(hidden.shape, generator=chance),
        other,
        multiplier=1.7,
    )


def made(seed, *, labels=None):
    """Three answers of four, two and three tokens; the second has none at its start, as a shorter prompt does not."""
    chance = torch.Generator().manual_seed(seed)
    labels_BK = torch.randint(V, (3, 4), generator=chance) if labels is None else labels
    if labels is None:
        labels_BK[1, 0] = labels_BK[1, 3] = labels_BK[2, 3] = -100
    other_BK = torch.randint(V, (3, 4), generator=chance)
    other_BK[0, 2:] = -100
    other = side(torch.randn(3, 4, V, generator=chance, requires_grad=True), other_BK, seed + 2)
    return side(torch.randn(3, 4, V, generator=chance, requires_grad=True), labels_BK, seed + 1, other=other)


def part(scores, rows):
    """Some rows of a side, as a micro-batch of the same step."""
    kept = {field.name: getattr(scores, field.name) for field in fields(scores)}
    cut = {name: value[rows] for name, value in kept.items() if isinstance(value, torch.Tensor)}
    return replace(scores, **cut, other=part(scores.other, rows) if scores.other is not None else None)


def total(losses):
    return losses.forget + losses.retain


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_is_the_sum_of_its_micro_batches(name):
    """As shares of the whole effective batch, however it is split."""
    method, forget, retain = METHODS[name], made(0), made(10)
    config = method.config()
    together = method.loss(config, forget, retain)
    split = [method.loss(config, part(forget, rows), part(retain, rows)) for rows in (slice(0, 1), slice(1, 3))]
    for field in Losses._fields:
        whole = getattr(together, field)
        if whole is not None:
            assert sum(getattr(losses, field).item() for losses in split) == pytest.approx(whole.item(), rel=1e-5), field


@pytest.mark.parametrize("name", METHODS)
def test_what_stands_where_there_is_no_label_changes_no_loss(name):
    """Padding, prompts: other logits, other hidden states, infinite ones."""
    method, forget, retain = METHODS[name], made(0), made(10)

    def spoilt(scores, value):
        gaps = ~scores.labelled_BK

        def spoil(tensor):
            return tensor.detach().masked_fill(gaps.unsqueeze(-1), value)

        names = ("logits_BKV", "logits_ref_BKV", "logits_reinforced_BKV", "hidden_BKH", "hidden_ref_BKH")
        changed = replace(scores, **{each: spoil(getattr(scores, each)) for each in names})
        return changed if scores.other is None else replace(changed, other=spoilt(scores.other, value))

    before = method.loss(method.config(), forget, retain)
    for value in (3.0, -50.0, math.nan):
        after = method.loss(method.config(), spoilt(forget, value), spoilt(retain, value))
        assert [each.item() for each in after[:2]] == pytest.approx([each.item() for each in before[:2]], rel=1e-6)


def known(seed):
    """Answers known by heart, as they are before the first step; a reinforced model knows them better still."""
    scores = made(seed)
    at_label_BKV = F.one_hot(scores.labels_BK.clamp(min=0), V).double()
    logits_BKV = (scores.logits_BKV.detach().double() + 4 * at_label_BKV).requires_grad_()
    reference = logits_BKV.detach().clone()
    log_p_BK = log_p_of(logits_BKV, scores.labels_BK)
    return replace(
        scores,
        log_p_BK=log_p_BK,
        log_p_ref_B=log_p_BK.detach().sum(1),
        logits_BKV=logits_BKV,
        logits_ref_BKV=reference,
        logits_reinforced_BKV=reference + 2 * at_label_BKV,
        hidden_BKH=scores.hidden_BKH.double().requires_grad_(),
    )


@pytest.mark.parametrize("name", STEPPED)
def test_a_small_step_down_the_gradient_forgets_and_keeps(name):
    """Forget answers become less likely, or what is to take their place more; the retain side's own loss does not rise."""
    method, forget, retain = METHODS[name], known(0), known(10)
    config = method.config()
    losses = method.loss(config, forget, retain)
    total(losses).backward()

    def stepped(scores):
        def down(tensor):
            return tensor if tensor.grad is None else (tensor - 0.01 * tensor.grad).detach()

        logits_BKV = down(scores.logits_BKV)
        return replace(
            scores,
            log_p_BK=log_p_of(logits_BKV, scores.labels_BK),
            logits_BKV=logits_BKV,
            hidden_BKH=down(scores.hidden_BKH),
            other=scores.other and stepped(scores.other),
        )

    forgot, held = stepped(forget), stepped(retain)
    after = method.loss(config, forgot, held)
    assert total(after) < total(losses)
    assert after.retain <= losses.retain
    if name == "rmu":
        assert (forgot.hidden_BKH - forget.hidden_BKH).abs().max() > 0
    elif name in ("idk-nll", "idk-ap"):
        assert (forgot.other.log_p_B > forget.other.log_p_B).all()
    else:
        assert (forgot.log_p_B < forget.log_p_B).all()


# ---- each formula beside its peer's ----


def logits_and_labels(seed=3):
    forget = made(seed)
    return forget.logits_BKV.detach(), forget.labels_BK, forget


def peer_nll(logits_BKV, labels_BK):
    """Summed over an answer."""
    return F.cross_entropy(logits_BKV.transpose(1, 2), labels_BK, ignore_index=-100, reduction="none").sum(-1)


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 0.0), (2.5, 1.0)])
def test_simnpo_is_the_peers(beta, delta):
    logits_BKV, labels_BK, forget = logits_and_labels()
    margin_B = peer_nll(logits_BKV, labels_BK) / (labels_BK != -100).sum(-1) - delta
    peer = -F.logsigmoid(beta * margin_B).mean() * 2 / beta
    ours = METHODS["simnpo"].loss(SimNpo(beta=beta, delta=delta, forget_weight=1.0), forget, made(10)).forget
    assert ours.item() == pytest.approx(peer.item(), rel=1e-5)
    # Two tokens at ½: log 2 nats a token.
    by_hand = -2 / beta * math.log(1 / (1 + math.exp(-beta * (math.log(2) - delta))))
    assert simnpo_loss(torch.tensor([-2 * math.log(2)]), torch.tensor([2]), beta, delta).item() == pytest.approx(
        by_hand, rel=1e-5
    )


def test_the_preference_loss_is_that_of_dpo_and_two_log_two_over_beta_at_the_start():
    _, _, forget = logits_and_labels()
    other, beta = forget.other, 0.3
    margin_B = (other.log_p_B - other.log_p_ref_B) - (forget.log_p_B - forget.log_p_ref_B)
    ours_B = preference_loss(forget.log_p_B, forget.log_p_ref_B, other.log_p_B, other.log_p_ref_B, beta)
    assert ours_B.tolist() == pytest.approx((2 / beta * torch.log1p(torch.exp(-beta * margin_B))).tolist(), rel=1e-5)
    same_B = preference_loss(forget.log_p_B, forget.log_p_B, other.log_p_B, other.log_p_B, beta)
    assert same_B.tolist() == pytest.approx([2 * math.log(2) / beta] * 3)
    for name in ("idk-dpo", "alt-po"):
        found = METHODS[name].loss(METHODS[name].config(beta=beta), forget, made(10)).forget
        assert found.item() == pytest.approx(ours_B.mean().item(), rel=1e-6)


def test_answer_preservation_by_hand():
    """Answer at 1 nat a token, refusal at 3: it is log(1 + e^-2β) / β, and log 2 / β where both are as likely."""
    found_B = answer_preservation_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), 0.5)
    assert found_B.tolist() == pytest.approx([2 * math.log1p(math.exp(-1)), 2 * math.log(2)], rel=1e-6)


def test_the_divergence_is_the_peers_at_labelled_positions_and_leaves_padding_out():
    retain = made(10)
    log_p, log_q = (x.detach().log_softmax(-1)[retain.labelled_BK] for x in (retain.logits_BKV, retain.logits_ref_BKV))
    peer = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    found = METHODS["kl-min"].loss(METHODS["kl-min"].config(), made(0), retain).retain
    assert found.item() == pytest.approx(peer.item(), rel=1e-5)
    assert kl_divergence(retain.logits_BKV, retain.logits_BKV).abs().max() < 1e-6
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    one = kl_divergence(torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.25, 0.75]]]).log())
    assert one.item() == pytest.approx(by_hand, rel=1e-5)


def test_undial_is_the_peers_without_what_has_no_label():
    logits_BKV, labels_BK, forget = logits_and_labels()
    mask = labels_BK != -100
    lowered = forget.logits_ref_BKV[mask] - 10 * F.one_hot(labels_BK[mask], V)
    peer = F.cross_entropy(logits_BKV[mask], lowered.softmax(-1))
    found = METHODS["undial"].loss(Undial(), forget, made(10)).forget
    assert found.item() == pytest.approx(peer.item(), rel=1e-5)
    # Two tokens, both at logit 0; the label lowered by log 3 has a quarter.
    one = undial_loss(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.tensor([[0]]), math.log(3))
    assert one.item() == pytest.approx(math.log(2), rel=1e-6)
    seen = undial_loss(torch.tensor([[[0.2, 0.8]]]).log(), torch.zeros(1, 1, 2), torch.tensor([[0]]), math.log(3))
    assert seen.item() == pytest.approx(-0.25 * math.log(0.2) - 0.75 * math.log(0.8), rel=1e-5)


def test_cross_entropy_unlearning_is_the_peers_and_skips_the_first_token_of_each_answer():
    logits_BKV, labels_BK, forget = logits_and_labels()
    kept_BK = labels_BK.clone()
    for row in kept_BK:
        row[int((row != -100).nonzero()[0])] = -100
    mask = kept_BK != -100
    without = logits_BKV[mask].clone()
    without[torch.arange(len(without)), kept_BK[mask]] = -math.inf
    peer = F.cross_entropy(logits_BKV[mask], without.softmax(-1))
    assert METHODS["ce-u"].loss(CeU(), forget, made(10)).forget.item() == pytest.approx(peer.item(), rel=1e-5)
    # Three tokens at ½, ¼, ¼, the first the label: the others have ½ each.
    one = ce_u_loss(torch.tensor([[[0.5, 0.25, 0.25]]]).log(), torch.tensor([[0]]))
    assert one.item() == pytest.approx(math.log(4), rel=1e-6)


def test_an_answer_no_longer_than_what_is_skipped_costs_nothing():
    labels_BK = torch.tensor([[2, -100], [-100, 3]])
    forget = side(torch.randn(2, 2, V), labels_BK, 0)
    assert METHODS["ce-u"].loss(CeU(), forget, made(10)).forget == 0


def test_weighted_ascent_is_the_peers_and_has_no_gradient_through_its_weights():
    logits_BKV, labels_BK, forget = logits_and_labels()
    nll = F.cross_entropy(logits_BKV.flatten(0, 1), labels_BK.flatten(), ignore_index=-100, reduction="none")
    mask = labels_BK.flatten() != -100
    for beta in (0.0, 1.0, 0.5):
        peer = -(((-nll).exp() ** beta) * nll)[mask].mean()
        assert METHODS["wga"].loss(Wga(beta=beta), forget, made(10)).forget.item() == pytest.approx(peer.item(), rel=1e-5)
    p = (-nll).exp()
    peer = -(p**5 * (1 - p) ** 1 * nll)[mask].mean()
    found = METHODS["satimp"].loss(SatImp(forget_weight=1.0), forget, made(10)).forget
    assert found.item() == pytest.approx(peer.item(), rel=1e-5)
    log_p_BK = torch.tensor([[math.log(0.5), math.log(0.9)]], requires_grad=True)
    (wga_loss(log_p_BK, 2.0) + satimp_loss(log_p_BK, 2.0, 1.0)).sum().backward()
    assert log_p_BK.grad[0].tolist() == pytest.approx([0.25 + 0.125, 0.81 + 0.081], rel=1e-5)


def test_flatness_is_the_peers_and_the_multiplier_rises_above_the_limit_and_falls_below():
    logits_BKV, labels_BK, forget = logits_and_labels()
    mask = labels_BK != -100
    peer = (logits_BKV.max(-1)[0] - logits_BKV.mean(-1)).square()[mask].mean()
    losses = METHODS["pdu"].loss(Pdu(), forget, made(10))
    assert losses.forget.item() == pytest.approx(peer.item(), rel=1e-5)
    assert losses.retain.item() == pytest.approx(1.7 * losses.constraint.item(), rel=1e-6)
    assert flatness_loss(torch.tensor([[[3.0, 0.0, 0.0]]])).item() == pytest.approx(4)
    assert flatness_loss(torch.ones(1, 1, 4)).item() == 0
    config = Pdu(limit_factor=2.0, limit_slack=0.1, dual_step=3.0)
    assert next_multiplier(config, 1.0, retain_loss=0.7, start=0.2) == pytest.approx(1 + 3 * 0.2)
    assert next_multiplier(config, 1.0, retain_loss=0.4, start=0.2) == pytest.approx(1 - 3 * 0.1)
    assert next_multiplier(config, 0.1, retain_loss=0.0, start=0.2) == 0


def test_misdirection_is_the_peers_mean_over_an_answer_and_then_over_answers():
    forget, retain = made(0), made(10)
    config = Rmu(steering=2.0)
    aim = 2.0 * forget.hidden_ref_BKH.norm(dim=-1, keepdim=True) * direction(H, 0)

    def peer(hidden, target, mask):
        squared = F.mse_loss(hidden, target, reduction="none") * mask.unsqueeze(-1)
        return (squared.mean(2).sum(1, keepdim=True) / mask.sum(-1, keepdim=True)).mean()

    found = METHODS["rmu"].loss(config, forget, retain)
    assert found.forget.item() == pytest.approx(peer(forget.hidden_BKH, aim, forget.labelled_BK).item(), rel=1e-5)
    held = peer(retain.hidden_BKH, retain.hidden_ref_BKH, retain.labelled_BK)
    assert found.retain.item() == pytest.approx(held.item(), rel=1e-5)
    by_hand = misdirection_loss(torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[True, False]]))
    assert by_hand.item() == pytest.approx(12.5)
    assert direction(H, 0).norm().item() == pytest.approx(1)
    assert direction(H, 0).tolist() == direction(H, 0).tolist() != direction(H, 1).tolist()


def test_a_rectified_gradient_does_not_point_against_the_retain_gradient():
    assert rectified(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])).tolist() == [1, 2]
    assert rectified(torch.tensor([-3.0, 2.0]), torch.tensor([2.0, 0.0])).tolist() == [0, 2]
    assert step(Gru(retain_weight=0.5), torch.tensor([-3.0, 2.0]), torch.tensor([2.0, 0.0])).tolist() == [1, 2]
    # No retain gradient at all is nothing to point against.
    assert rectified(torch.tensor([-3.0, 2.0]), torch.zeros(2)).tolist() == [-3, 2]


def test_generic_logits_lose_what_reinforcement_added_and_nothing_that_it_took():
    found = generic_logits(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 3.5]), 5.0)
    assert found.tolist() == pytest.approx([1 - 5, 2, 3 - 2.5])


def test_weights_that_matter_far_more_to_the_forget_set_are_dampened_by_the_ratio():
    weight, forget, retain = (
        torch.tensor([4.0, 4.0, 4.0, 4.0]),
        torch.tensor([8.0, 8.0, 0.0, 9.0]),
        torch.tensor([2.0, 0.5, 1.0, 0.0]),
    )
    found = dampened(weight, forget, retain, Ssd(selection=10.0, dampening=2.0, exponent=1.0))
    # 8 is 16 times .5: made 2 · .5 / 8 of what it was; what does not matter to the retain set at all is gone.
    assert found.tolist() == pytest.approx([4, 4 / 8, 4, 0])


def test_a_task_vector_goes_as_far_in_the_opposite_direction():
    weights = {"w": torch.tensor([1.0, 5.0])}
    METHODS["task-vector"].edit(TaskVector(scale=2.0), Edit(weights, lambda: {"w": torch.tensor([2.0, 4.0])}, lambda *_: {}))
    assert weights["w"].tolist() == [-1, 7]


def test_a_skip_below_nothing_is_refused():
    with pytest.raises(ExpungeError, match="--skip-tokens is -1"):
        METHODS["ce-u"].loss(CeU(skip_tokens=-1), made(0), made(10))
