"""Loading, naming and saving models: `embedded`, a Hub id, a directory of weights, or a PEFT adapter."""

from expunge.models.cpu import prepare_cpu
from expunge.models.embedded import EMBEDDED
from expunge.models.loading import (
    check_readable,
    fresh_adapter,
    load_model,
    load_tokenizer,
    model_fingerprint,
    resolve_base,
    save_adapter,
)

__all__ = [
    "EMBEDDED",
    "check_readable",
    "fresh_adapter",
    "load_model",
    "load_tokenizer",
    "model_fingerprint",
    "prepare_cpu",
    "resolve_base",
    "save_adapter",
]
