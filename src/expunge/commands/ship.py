"""`expunge merge` and `expunge gguf`."""

from __future__ import annotations

from typing import Annotated

from expunge.commands.show import FLAT, Json, show_run
from expunge.recipes.gguf import GgufConfig
from expunge.recipes.gguf import gguf as gguf_recipe
from expunge.recipes.merge import MergeConfig
from expunge.recipes.merge import merge as merge_recipe


def merge(config: Annotated[MergeConfig, FLAT], *, json: Json = False) -> int:
    """Fold an adapter into its base: plain weights that anything can load.

    Example: `expunge merge --lora-path unlearned/model --output-path merged --verify`
    """
    show_run(merge_recipe(config), json)
    return 0


def gguf(config: Annotated[GgufConfig, FLAT], *, json: Json = False) -> int:
    """Convert a model to GGUF and quantise it, for llama.cpp and LM Studio; the file is asked before success is claimed.

    Example: `expunge gguf --model-path merged/model --output-path gguf --quant-type f16 --quant-type q4_k_m`
    """
    show_run(gguf_recipe(config), json)
    return 0
