"""Merge: put an adapter into its base, as one model of plain weights that anything can load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.files import fingerprint, sha256
from expunge.progress import console
from expunge.runs import MANIFEST, Run, check_place, settings_of

ADAPTER_CONFIG = "adapter_config.json"
MODEL = "model"
"""The merged model's directory inside the run."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Merge a LoRA adapter into its base, ready to be converted, quantised and shipped."""

    lora_path: Path
    """The adapter's directory."""
    output_path: Path
    """Run directory for the merged model."""
    base_model: str | None = None
    """The base, if it is not where the adapter says: `embedded`, a Hub id, or a directory."""
    dtype: str = "float32"
    """float32, bfloat16 or float16. An edit that unlearns is small, and bfloat16 keeps 8 bits of a weight: it moved logits by
    up to .94, float16 by .13, float32 by .0001. The GGUF file rounds once more anyway: do not round twice."""
    scale: float = 1.0
    """How much of the adapter is taken. Below 1, what it was taught and what it cost both give way to the base (Wortsman et al.
    2022, arXiv 2109.01903); a little above 1, both go on in its direction (Ilharco et al. 2023, arXiv 2212.04089)."""
    verify: bool = True
    """Read the written model back, compare its logits with those of base and adapter, and ask it a question."""


def merge(config: MergeConfig) -> Run:
    """Write `model/` and how far its logits are from those of base and adapter.

    Raises:
        ExpungeError: no adapter, a wrong base, or a place that is taken or cannot be written.
    """
    from expunge.deploy.agreement import QUESTION
    from expunge.deploy.merge import base_of_adapter, merge_adapter, refuse_misfit
    from expunge.models import model_fingerprint

    check_scale(config.scale)
    base = base_of_adapter(config.lora_path, config.base_model, dtype=config.dtype)
    # The adapter's own files: the base that it names may have been moved.
    adapter = {path.name: sha256(path) for path in (*config.lora_path.glob("*.safetensors"), config.lora_path / ADAPTER_CONFIG)}
    inputs = {"lora_path": fingerprint(adapter), "base_model": model_fingerprint(base)}
    settings = settings_of(config, without=("lora_path", "base_model", "output_path"))
    if (config.output_path / MANIFEST).exists():
        with Run.open(config.output_path, "merge", settings, inputs) as run:
            if run.finished:
                return run

    check_place(config.output_path)
    refuse_misfit(config.lora_path, base)
    with Run.open(config.output_path, "merge", settings, inputs) as run:
        with run.timed("merge"):
            found = merge_adapter(
                config.lora_path, run.path / MODEL, base=base, dtype=config.dtype, scale=config.scale, verify=config.verify
            )
        if found is not None:
            console.print(
                f"Merged: logits within {found.max_difference:.2g} of base + adapter, "
                f"the same next token at {found.argmax_agreement:.0%} of positions.\n"
                f'Asked "{QUESTION}", it says: "{found.answer}"',
                soft_wrap=True,
                markup=False,
            )
        run.finish({MODEL: model_fingerprint(run.path / MODEL)}, verification=found._asdict() if found else None)
        return run


def check_scale(scale: float) -> None:
    """Refuse to take none of an adapter, or so much more than all of it that the model would babble.

    Raises:
        ExpungeError: the scale is not above 0 and at most 2.
    """
    if not 0 < scale <= 2:
        raise ExpungeError(f"--scale is {scale:g}", remedy="give more than 0 and at most 2")
