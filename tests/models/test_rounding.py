"""Weights rounded to what 4 bits can hold."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from expunge.models import load_model
from expunge.models.rounding import nf4_values, round_layers_to_4_bits, round_to_4_bits


def test_rounding_equals_that_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(0)
    for shape in ((64, 64), (96, 128), (3, 64)):
        weight = torch.randn(shape) * 0.02
        packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        torch.testing.assert_close(round_to_4_bits(weight), functional.dequantize_4bit(packed, state), rtol=0, atol=1e-7)


def test_there_are_sixteen_values_from_minus_one_to_one_and_nought_among_them():
    values = nf4_values()
    assert values.shape == (16,)
    assert (values[0], values[7], values[-1]) == (-1, 0, 1)
    assert (values.diff() > 0).all()


def test_a_rounded_weight_stays_as_it_is_when_rounded_again():
    torch.manual_seed(0)
    once = round_to_4_bits(torch.randn(8, 48))
    torch.testing.assert_close(round_to_4_bits(once), once)
    assert round_to_4_bits(torch.zeros(4, 4)).equal(torch.zeros(4, 4))


def test_every_linear_layer_is_rounded_and_the_head_is_not(tmp_path):
    path = tiny_models.write_model(tmp_path / "model")
    before, after = load_model(path), round_layers_to_4_bits(load_model(path))
    changed = {
        name
        for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not old.equal(new)
    }
    assert changed == {name for name, _ in before.named_parameters() if "_proj" in name}
