"""The head of a GGUF file: metadata and the list of tensors, without the weights.

The `gguf` package reads a whole vocabulary into arrays first (3 s for 49,000 tokens); this passes over it (.02 s), and
so can stand before every load: native code is never given a file that is truncated or of another kind.
Format: the GGUF specification in the ggml repository, version 3 (2 differs in nothing read here).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO, Any, NamedTuple

from expunge.deploy.parts import READER, require
from expunge.errors import ExpungeError

# Value types of the metadata, by number: the format of `struct`, without strings (8) and arrays (9).
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# A length beyond this is no length but the middle of something else.
_LIMIT = 1 << 40


class GgufTensor(NamedTuple):
    """One entry of the list of tensors."""

    name: str
    shape: tuple[int, ...]
    """The width of a row first, as GGUF has it: the other way round than in PyTorch."""
    type: str
    """`F32`, `F16`, `Q8_0`, `Q4_K`, …"""


class GgufHead(NamedTuple):
    """What a GGUF file says about itself."""

    metadata: dict[str, Any]
    """Numbers and strings by their key; the values of arrays are left out."""
    tensors: list[GgufTensor]
    bytes: int
    """Size of the whole file."""

    @property
    def architecture(self) -> str:
        """`llama`, `qwen3`, `gemma3`, …"""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def quantization(self) -> str:
        """What most weights are stored in, as LM Studio writes it: `Q4_K_M`, `F16`; empty where the file does not say."""
        from gguf.constants import LlamaFileType

        try:
            return LlamaFileType(self.metadata["general.file_type"]).name.split("_", 1)[1]
        except (KeyError, ValueError):
            return ""

    @property
    def longest_context(self) -> int:
        """Tokens that the model was trained to read at most; 0 where the file does not say."""
        return int(self.metadata.get(f"{self.architecture}.context_length", 0))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def fallbacks(self, block: int) -> list[GgufTensor]:
        """The weight matrices that cannot be stored in blocks of `block` weights, since their rows are no multiple of it.

        llama.cpp stores them in a larger type of smaller blocks and says so in its log alone.
        """
        return [tensor for tensor in self.tensors if len(tensor.shape) > 1 and tensor.shape[0] % block and tensor.type != "F32"]


def read_gguf(path: Path) -> GgufHead:
    """Read a file's head, and check that all its weights are there and that its architecture is one of llama.cpp's.

    Raises:
        ExpungeError: no such file, no GGUF file, truncated, or of an unknown architecture.
    """
    require(READER)
    from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType

    again = "make the file again, or copy it again"
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            if stream.read(4) != b"GGUF":
                raise ExpungeError("is no GGUF file (it does not begin with GGUF)", where=path, remedy="check the path")
            version, n_tensors, n_metadata = struct.unpack("<IQQ", _take(stream, 20))
            if version not in (2, 3):
                raise ExpungeError(f"is a GGUF file of unknown version {version}", where=path, remedy=again)
            metadata: dict[str, Any] = {}
            for _ in range(_length(n_metadata)):
                key = _string(stream)
                metadata[key] = _value(stream, _number(stream, "I"))
            tensors, end = [], 0
            for _ in range(_length(n_tensors)):
                name = _string(stream)
                shape = tuple(_number(stream, "Q") for _ in range(_length(_number(stream, "I"))))
                kind = GGMLQuantizationType(_number(stream, "I"))
                block, width = GGML_QUANT_SIZES[kind]
                end = max(end, _number(stream, "Q") + math.prod(shape) // block * width)
                tensors.append(GgufTensor(name, shape, kind.name))
            alignment = int(metadata.get("general.alignment", 32))
            start = -(-stream.tell() // alignment) * alignment
    except OSError as error:
        raise ExpungeError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from None
    except (struct.error, ValueError, KeyError, OverflowError, ZeroDivisionError):
        raise ExpungeError("is truncated or damaged", where=path, remedy=again) from None
    if size < start + end:
        raise ExpungeError(f"is truncated ({size} of {start + end} bytes)", where=path, remedy=again)
    head = GgufHead(metadata, tensors, size)
    if head.architecture not in MODEL_ARCH_NAMES.values():
        what = f'is of the architecture "{head.architecture}", which llama.cpp does not know'
        raise ExpungeError(what, where=path, remedy="install a newer llama.cpp, or choose another model")
    return head


def _take(stream: IO[bytes], count: int) -> bytes:
    taken = stream.read(_length(count))
    if len(taken) < count:
        raise ValueError("the file ends here")
    return taken


def _length(count: int) -> int:
    if count > _LIMIT:
        raise ValueError("no length")
    return count


def _number(stream: IO[bytes], form: str) -> Any:
    return struct.unpack(f"<{form}", _take(stream, struct.calcsize(f"<{form}")))[0]


def _string(stream: IO[bytes]) -> str:
    return _take(stream, _number(stream, "Q")).decode("utf-8", "replace")


def _value(stream: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        return _number(stream, _SCALARS[kind])
    inner, count = struct.unpack("<IQ", _take(stream, 12))
    if inner in _SCALARS:
        _take(stream, _length(count) * struct.calcsize(f"<{_SCALARS[inner]}"))
    else:
        for _ in range(_length(count)):
            _value(stream, inner)
    return None
