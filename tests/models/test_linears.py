"""A quick linear layer says what PyTorch's own says, and is none where gradients are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tiny_models
from expunge.evidence.generation import generate
from expunge.models import linears, load_model, load_plain
from expunge.models.linears import QuickLinear, quicken, weights_laid_out

pytestmark = pytest.mark.skipif(not linears.available(), reason="PyTorch has no choice here")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (0, 24)])
def test_it_gives_the_product_that_pytorch_gives(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, input = nn.Linear(24, 40, bias=bias), torch.randn(*shape)
    expected = layer(input)
    quicken(layer)
    assert type(layer) is QuickLinear
    with torch.no_grad():
        torch.testing.assert_close(layer(input), expected, rtol=1e-5, atol=1e-6)
        with weights_laid_out(layer):
            assert layer.laid_out is not None
            torch.testing.assert_close(layer(input), expected, rtol=1e-5, atol=1e-6)
    assert layer.laid_out is None


def test_where_gradients_are_wanted_it_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    own, quick = nn.Linear(8, 8), nn.Linear(8, 8)
    quick.load_state_dict(own.state_dict())
    quicken(quick)
    input = torch.randn(3, 8)
    for layer in (own, quick):
        with weights_laid_out(layer):
            layer(input).square().sum().backward()
    assert own.weight.grad is not None
    assert quick.weight.grad is not None
    assert torch.equal(own.weight.grad, quick.weight.grad)


def test_other_types_than_float32_stay_with_pytorch() -> None:
    layer = nn.Linear(8, 8, dtype=torch.bfloat16)
    input = torch.randn(3, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = layer(input)
        quicken(layer)
        with weights_laid_out(layer):
            assert torch.equal(layer(input), expected)


def test_weights_are_laid_out_twice_only_where_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(8, 8)
    quicken(layer)
    monkeypatch.setattr(linears, "_SPARE", 1 << 50)
    with weights_laid_out(layer):
        assert layer.laid_out is None


def test_a_model_to_be_asked_is_quick_and_says_the_same(tmp_path: Path) -> None:
    path = tiny_models.write_model(tmp_path / "model", hidden=64)
    slow, quick = load_model(path), load_plain(path)
    assert {type(module) for module in quick.modules() if isinstance(module, nn.Linear)} == {QuickLinear}
    assert QuickLinear not in map(type, slow.modules())
    prompts = [[5, 6, 7, 8], [9, 10]]
    assert generate(quick, prompts, max_new_tokens=8, ends=()) == generate(slow, prompts, max_new_tokens=8, ends=())
    assert not any(module.laid_out is not None for module in quick.modules() if isinstance(module, QuickLinear))
