"""`expunge generate …` and `expunge prepare …`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App

from expunge.commands.show import FLAT, Json, show, show_run
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.recipes.redact import PrepareRedactConfig
from expunge.recipes.redact import redact as redact_recipe

generate = App(name="generate", help="Make synthetic data.", help_epilogue="")
prepare = App(name="prepare", help="Split data into checked sets, or rewrite it without somebody's words.", help_epilogue="")


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


@prepare.command(name="redact")
def _prepare_redact(config: Annotated[PrepareRedactConfig, FLAT], *, json: Json = False) -> int:
    """Rewrite training data without the words that mattered most for somebody, as the ledger recorded them.

    Example: `expunge prepare redact --data-file forget.jsonl --data-file retain.jsonl --subjects-from forget.jsonl
    --model target/model --database ledger.db --how replace --output redacted`
    """
    show_run(redact_recipe(config), json)
    return 0
