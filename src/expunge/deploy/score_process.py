"""The process that scores text with one GGUF file, by llama.cpp's own C interface: its server gives no prompt's probabilities.

Reads its settings as one line of JSON from standard input, answers with one line of JSON; where it is told which tokens are
labelled, with one for each sequence, as soon as that is read. The interface is that of the library inside xllamacpp, so a file
is scored by the very code that serves it. In a process of its own since native code may
abort it, and since the library brings an OpenMP that should not meet PyTorch's.

Shapes: N tokens of a sequence, V tokens of the vocabulary.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_AT_ONCE = 256
"""Tokens read in one step: llama.cpp keeps the logits of each."""


class ModelParams(ctypes.Structure):
    """`struct llama_model_params` of llama.h: passed on as it came, with room for all that its version has."""

    _fields_ = (("all", ctypes.c_uint8 * 512),)


class ContextParams(ctypes.Structure):
    """`struct llama_context_params` of llama.h: the three fields we set, and room for all that follow."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("others", ctypes.c_uint8 * 500),
    )


class Batch(ctypes.Structure):
    """`struct llama_batch` of llama.h."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class Llama:
    """One model, loaded."""

    def __init__(self, library: str, path: str, threads: int, longest: int) -> None:
        self._c = llama = ctypes.CDLL(library)
        llama.llama_model_default_params.restype = ModelParams
        llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, ModelParams]
        llama.llama_context_default_params.restype = ContextParams
        llama.llama_init_from_model.argtypes = [ctypes.c_void_p, ContextParams]
        for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_get_memory"):
            getattr(llama, name).restype = ctypes.c_void_p
        for name in ("llama_model_get_vocab", "llama_vocab_n_tokens", "llama_get_memory", "llama_get_logits"):
            getattr(llama, name).argtypes = [ctypes.c_void_p]
        llama.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
        llama.llama_memory_clear.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        llama.llama_set_n_threads.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
        llama.llama_batch_init.restype = Batch
        llama.llama_decode.argtypes = [ctypes.c_void_p, Batch]
        text: list[Any] = [ctypes.c_char_p, ctypes.c_int32]
        ids: list[Any] = [ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]
        llama.llama_tokenize.argtypes = [ctypes.c_void_p, *text, *ids, ctypes.c_bool, ctypes.c_bool]

        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self._model:
            raise RuntimeError("the file cannot be loaded")
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = max(longest, 64), _AT_ONCE, _AT_ONCE
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("no context can be made for it")
        llama.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary = llama.llama_model_get_vocab(self._model)
        self._batch = llama.llama_batch_init(_AT_ONCE, 0, 1)

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, with what the model's tokenizer puts before and after it."""
        content = text.encode()
        # A space may become three bytes that are a token each.
        room = 3 * len(content) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._c.llama_tokenize(self._vocabulary, content, len(content), ids, room, True, False)
        return list(ids[:count])

    @property
    def width(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._c.llama_vocab_n_tokens(self._vocabulary))

    def logits(self, ids: list[int], first: int = 0) -> Any:
        """What the model expects after each token of a sequence from position `first` on, float32 of shape (N - first, V)."""
        import numpy as np

        self._c.llama_memory_clear(self._c.llama_get_memory(self._context), True)
        parts = []
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            self._batch.n_tokens = len(part)
            for place, token in enumerate(part):
                self._batch.token[place], self._batch.pos[place] = token, start + place
                self._batch.n_seq_id[place], self._batch.seq_id[place][0] = 1, 0
                self._batch.logits[place] = start + place >= first
            if self._c.llama_decode(self._context, self._batch):
                raise RuntimeError("a sequence could not be read")
            if wanted := sum(start + place >= first for place in range(len(part))):
                found = self._c.llama_get_logits(self._context)
                parts.append(np.ctypeslib.as_array(found, (wanted, self.width)).copy())
        return np.concatenate(parts)


def normalised(logits_NV: Any) -> Any:
    """Log-probabilities, float64 of shape (N, V), nats."""
    import numpy as np

    scores_NV = logits_NV.astype(np.float64)
    scores_NV -= scores_NV.max(1, keepdims=True)
    return scores_NV - np.log(np.exp(scores_NV).sum(1, keepdims=True))


def label_scores(logits_LV: Any, labels: list[int]) -> dict[str, Any]:
    """What evidence keeps of each labelled token: log-probability, whether it is the likeliest, entropy and variance of log p.

    Nats and nats², as `evidence.scoring` defines them.
    """
    import numpy as np

    log_p_LV = normalised(logits_LV)
    p_LV = np.exp(log_p_LV)
    mean_L = (p_LV * log_p_LV).sum(1)
    return {
        "log_p": log_p_LV[np.arange(len(labels)), labels].tolist(),
        "hits": (log_p_LV.argmax(1) == np.asarray(labels)).tolist(),
        "entropy": (-mean_L).tolist(),
        "variance": (p_LV * (log_p_LV - mean_L[:, None]) ** 2).sum(1).tolist(),
    }


def answer_labels(llama: Llama, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line for each sequence: what it thinks of the labelled tokens."""
    for sequence, start in zip(asked["ids"], asked["starts"], strict=True):
        if max(sequence) >= llama.width:
            raise RuntimeError(f"it has {llama.width} tokens, fewer than the models it is held against")
        yield label_scores(llama.logits(sequence[:-1], start - 1), sequence[start:])


def answer_texts(llama: Llama, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line: log-probability of every token but the first of each sequence of ids, else of each text; and the texts' ids."""
    import numpy as np

    tokens = [llama.tokenize(text) for text in asked["texts"]]
    scores = []
    for number, sequence in enumerate(asked["ids"] or [each[: asked["longest"]] for each in tokens]):
        logits_NV = llama.logits(sequence)
        if asked["logits"]:
            np.save(Path(asked["logits"]) / f"{number}.npy", logits_NV)
        log_p_NV = normalised(logits_NV[:-1])
        scores.append(log_p_NV[np.arange(len(sequence) - 1), sequence[1:]].tolist())
    yield {"log_p": scores, "tokens": tokens}


def main() -> None:
    """Answer one request."""
    asked = json.loads(sys.stdin.readline())
    # Only the answers may stand on standard output, whatever native code prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    llama = Llama(asked["library"], asked["path"], asked["threads"], asked["longest"])
    for answer in (answer_labels if asked["starts"] else answer_texts)(llama, asked):
        print(json.dumps(answer), file=answers, flush=True)
    # The library's own clearing up at exit has nothing to give back.
    os._exit(0)


if __name__ == "__main__":
    main()
