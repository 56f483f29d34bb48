"""Quantisation: rounding the weights may undo a small edit that hid what it did not remove.

Zhang et al. 2024, arXiv 2410.16454: at 4 bits, forgotten knowledge came back from 21% to 83%.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from expunge.audit.attacks import Scene, Version, version_attack
from expunge.errors import ExpungeError, suggestion

BITS = ("int8", "nf4", "fp4")


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Round the weights to 8 and 4 bits, and ask again."""

    kinds: tuple[str, ...] = BITS
    """int8, nf4, fp4 (by bitsandbytes), or types of GGUF files: q8_0, q6_k, q5_k_m, q4_k_m, q4_k_s, q3_k_m, f16."""


@version_attack("quantize", Quantize, source="Zhang et al. 2024, arXiv 2410.16454", holds="the weights, and the question")
def versions(config: Quantize, scene: Scene) -> Iterator[Version]:
    """A rounded copy of the whole model for each kind; an adapter is folded in first, as it is before a model ships.

    Raises:
        ExpungeError: an unknown kind, or a package is missing.
    """
    from expunge.deploy.gguf import QUANT_TYPES
    from expunge.deploy.parts import BITSANDBYTES, SERVER, require

    for kind in config.kinds:
        if kind not in (*BITS, *QUANT_TYPES):
            raise ExpungeError(f'"{kind}" is no way to round weights', remedy=suggestion(kind, (*BITS, *QUANT_TYPES)))
        require(BITSANDBYTES if kind in BITS else SERVER)
    for kind in config.kinds:
        yield Version(kind, partial(_rounded, kind, scene))


def _rounded(kind: str, scene: Scene) -> Any:
    from expunge.deploy.gguf import make_gguf
    from expunge.models import load_model

    whole = _whole(scene)
    if kind == "int8":
        return load_model(whole, bits=8)
    if kind in BITS:
        return load_model(whole, bits=4, four_bits="fp4" if kind == "fp4" else "nf4")
    return make_gguf(Path(whole), scene.work, [kind], name="rounded", threads=scene.threads or 1)[0].path


def _whole(scene: Scene) -> str | Path:
    from expunge.deploy.merge import merge_adapter
    from expunge.models import on_disk, resolve_base

    if resolve_base(scene.model) == scene.model:
        return on_disk(scene.model)
    place = scene.work / "whole"
    if not place.exists():
        merge_adapter(Path(scene.model), place, verify=False)
    return place
