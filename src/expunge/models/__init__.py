"""Loading, naming and saving models: `embedded`, a Hub id, a directory of weights, or a PEFT adapter."""

from expunge.models.cpu import prepare_cpu
from expunge.models.embedded import EMBEDDED
from expunge.models.loading import (
    check_readable,
    fresh_adapter,
    is_out_of_memory,
    load_model,
    load_plain,
    load_tokenizer,
    model_fingerprint,
    on_disk,
    resolve_base,
    save_trained,
)
from expunge.models.shape import Shape, model_shape

__all__ = [
    "EMBEDDED",
    "Shape",
    "check_readable",
    "fresh_adapter",
    "is_out_of_memory",
    "load_model",
    "load_plain",
    "load_tokenizer",
    "model_fingerprint",
    "model_shape",
    "on_disk",
    "prepare_cpu",
    "resolve_base",
    "save_trained",
]
