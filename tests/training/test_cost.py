"""What a fine-tuning is said to take."""

from __future__ import annotations

from expunge.batching import Tokenized
from expunge.models import Shape
from expunge.training.cost import matmul_rate, training_cost
from expunge.training.plan import MicroBatch

SHAPE = Shape(parameters=1_200_000, linear=1_000_000, sides=10_000, layers=4, hidden=100, vocabulary=2_000)
EXAMPLES = [Tokenized("a", tuple(range(20)), 10, False), Tokenized("b", tuple(range(16)), 12, False)]
PLAN = [MicroBatch((0, 1)), MicroBatch((1,))]


def cost(**changed):
    settings = {"steps": 2, "rank": 8, "dtype": "float32", "bits": None, "recomputes": False, "flops_per_second": 1e6}
    return training_cost(SHAPE, PLAN, EXAMPLES, **(settings | changed))


def test_tokens_are_counted_with_their_padding_and_the_adapter_by_its_rank():
    assert cost().tokens == 2 * 20 + 16
    assert cost().trained_weights == 80_000
    assert cost(rank=None).trained_weights == 1_200_000


def test_multiplications_by_hand():
    tokens, head = 56, (2 * 10 + 4) * 2_000 * 100
    lora = 2 * 2 * (tokens * 1_000_000 + head) + 6 * tokens * 80_000
    full = 2 * 3 * (tokens * 1_000_000 + head)
    assert abs(cost().seconds * 0.6e6 / lora - 1) < 1e-9
    assert abs(cost(rank=None).seconds * 0.6e6 / full - 1) < 1e-9
    assert cost(recomputes=True).seconds > cost().seconds
    assert cost(flops_per_second=2e6).seconds * 2 == cost().seconds


def test_what_is_said_to_save_memory_does():
    plain = cost().memory_bytes
    assert cost(rank=None).memory_bytes > plain
    for saving in ({"bits": 8}, {"dtype": "bfloat16"}, {"recomputes": True}, {"rank": 2}):
        assert cost(**saving).memory_bytes < plain, saving
    assert cost(bits=4).memory_bytes < cost(bits=8).memory_bytes


def test_the_rate_of_a_matrix_product_is_measured():
    assert 1e7 < matmul_rate(64, dtype="float32", rows=64, seconds=0.01) < 1e16
