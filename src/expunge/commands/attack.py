"""`expunge attack NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import App

from expunge.audit.attacks import ATTACKS, every_attack
from expunge.audit.attacks.extraction import Extraction
from expunge.commands.show import FLAT, Json, show, show_rows, show_run
from expunge.recipes.attack import AttackConfig
from expunge.recipes.attack import attack as attack_recipe
from expunge.recipes.extraction import ExtractionConfig
from expunge.recipes.extraction import extraction as extraction_recipe


def _command(name: str) -> Callable[..., int]:
    def command(config: Any, settings: Any, *, json: bool = False) -> int:
        found = attack_recipe(config, name, settings)
        if isinstance(found, dict):
            show(found, json)
        else:
            show_run(found, json)
        return 0

    return command


def _extraction(
    config: Annotated[ExtractionConfig, FLAT], settings: Annotated[Extraction, FLAT] = Extraction(), *, json: Json = False
) -> int:
    """Decode from the difference between the model before a deletion and the model after it.

    Reversed model guidance, arXiv 2505.24379. It attacks exact retraining too.

    Example: `expunge attack extraction --pre target/model --post retrained/model --forget forget.jsonl --output extraction`
    """
    found = extraction_recipe(config, settings)
    if isinstance(found, dict):
        show(found, json)
    else:
        show_run(found, json)
    return 0


def _app() -> App:
    attacking = App(name="attack", help="Try to get the forgotten back.", help_epilogue="")
    attacking.command(_extraction, name="extraction")
    for name in ATTACKS:
        found = ATTACKS[name]
        command = _command(name)
        command.__doc__ = (
            f"{found.summary}\n\n{found.source}.\n\nExample: `expunge attack {name} --target target/model --unlearned "
            "unlearned/model --retrained retrained/model --forget forget.jsonl --others retain.jsonl --output attack`"
        )
        command.__annotations__ = {
            "config": Annotated[AttackConfig, FLAT],
            "settings": Annotated[found.config, FLAT],
            "json": Json,
            "return": int,
        }
        command.__defaults__ = (found.config(),)
        attacking.command(command, name=name)
    return attacking


attack = _app()


def attacks(*, json: Json = False) -> int:
    """List the attacks, and what an attacker needs for each.

    Example: `expunge attacks --json`
    """
    rows = [
        {"attack": one.name, "what it does": one.summary, "the attacker has": one.holds, "paper": one.source}
        for one in every_attack()
    ]
    show_rows(rows, json)
    return 0
