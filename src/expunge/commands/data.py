"""`expunge generate …` and `expunge prepare …`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App

from expunge.commands.show import FLAT, Json, show, show_run
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical

generate = App(name="generate", help="Make synthetic data.", help_epilogue="")
prepare = App(
    name="prepare", help="Split data into forget, retain and holdout sets, checked against each other.", help_epilogue=""
)


@generate.command(name="medical")
def _generate_medical(config: Annotated[GenerateMedicalConfig, FLAT], *, json: Json = False) -> int:
    """Write synthetic SOAP notes of people who do not exist, as JSON lines.

    Example: `expunge generate medical --n-record 1000 --output notes.jsonl`
    """
    path = generate_medical(config)
    show({"file": str(path), "notes": config.n_record}, json)
    return 0


@prepare.command(name="medical")
def _prepare_medical(config: Annotated[PrepareMedicalConfig, FLAT], *, json: Json = False) -> int:
    """Split SOAP notes by person into forget, retain and holdout, and check them for overlap.

    Example: `expunge prepare medical -i notes.jsonl -o dataset --forget-ratio 0.05`
    """
    show_run(prepare_medical(config), json)
    return 0
