"""From examples to token batches."""

from expunge.batching.batches import Batch, TokenBatch, batches_by_length, collate
from expunge.batching.tokens import Span, Tokenized, prompt_tokens, token_spans, tokenize

__all__ = [
    "Batch",
    "Span",
    "TokenBatch",
    "Tokenized",
    "batches_by_length",
    "collate",
    "prompt_tokens",
    "token_spans",
    "tokenize",
]
