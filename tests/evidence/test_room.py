"""How much goes through a model at once, on a processor and on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from expunge.evidence import generation, room


class Asked(torch.nn.Module):
    """A head of a thousand words, and the shape of a model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 1000)
        shape = SimpleNamespace(num_key_value_heads=2, num_attention_heads=2, num_hidden_layers=2, hidden_size=16, head_dim=8)
        self.config = SimpleNamespace(get_text_config=lambda decoder: shape)

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head


def test_a_processor_takes_what_is_right_for_it():
    assert room.tokens_together(Asked(), 512) == 512


@pytest.mark.parametrize(
    ("memory", "tokens"),
    [
        (1_000_000, 512),  # room for 83 tokens: no fewer than on a processor
        (12_000_000, 1000),  # 12 bytes a word and token
        (1 << 40, 8192),  # never more than sixteen times
    ],
)
def test_a_gpu_takes_as_many_tokens_as_their_logits_leave_room_for(memory, tokens, monkeypatch):
    monkeypatch.setattr(room, "memory_for_a_batch", lambda model: memory)
    assert room.tokens_together(Asked(), 512) == tokens


@pytest.mark.parametrize(("memory", "prompts"), [(1_000_000, 32), (5_120_000, 100), (1 << 40, 512)])
def test_a_gpu_answers_as_many_prompts_as_their_past_leaves_room_for(memory, prompts, monkeypatch):
    # Keys and values of 2 layers and 2 heads of width 8, 4 bytes each: 256 bytes a token, 51,200 for 200 tokens.
    monkeypatch.setattr(generation, "memory_for_a_batch", lambda model: memory)
    assert generation.answered_together(Asked(), 200) == prompts
