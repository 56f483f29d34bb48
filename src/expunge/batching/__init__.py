"""From examples to token batches."""

from expunge.batching.batches import Batch, TokenBatch, batches_by_length, collate
from expunge.batching.tokens import Tokenized, prompt_tokens, tokenize

__all__ = ["Batch", "TokenBatch", "Tokenized", "batches_by_length", "collate", "prompt_tokens", "tokenize"]
