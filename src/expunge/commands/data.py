"""`expunge generate …` and `expunge prepare …`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any

from cyclopts import App

from expunge.commands.show import FLAT, Json, show, show_run
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.recipes.prepare_source import PrepareConfig, prepare_source
from expunge.recipes.redact import PrepareRedactConfig
from expunge.recipes.redact import redact as redact_recipe
from expunge.sources import SOURCES

generate = App(name="generate", help="Make synthetic data.", help_epilogue="")
prepare = App(name="prepare", help="Split data into checked sets, or rewrite it without somebody's words.", help_epilogue="")


@generate.command(name="medical")
def _generate_medical(config: Annotated[GenerateMedicalConfig, FLAT], *, json: Json = False) -> int:
    """Write synthetic SOAP notes of people who do not exist, as JSON lines.

    Example: `expunge generate medical --n-record 1000 --output notes.jsonl`
    """
    found = generate_medical(config)
    if config.dry_run and not json:
        print(found.sample)
    else:
        show({name: value for name, value in found._asdict().items() if json or value}, json)
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


def _prepare_command(name: str) -> Callable[..., int]:
    def command(config: Any, settings: Any, *, json: bool = False) -> int:
        show_run(prepare_source(config, name, settings), json)
        return 0

    return command


for _name in SOURCES:
    _source = SOURCES[_name]
    _command = _prepare_command(_name)
    _command.__doc__ = f"{_source.summary}\n\nExample: `expunge prepare {_name} {_source.example}`"
    _command.__annotations__ = {
        "config": Annotated[PrepareConfig, FLAT],
        "settings": Annotated[_source.config, FLAT],
        "json": Json,
        "return": int,
    }
    if all(each.default is not MISSING for each in fields(_source.config)):
        _command.__defaults__ = (_source.config(),)
    prepare.command(_command, name=_name)
