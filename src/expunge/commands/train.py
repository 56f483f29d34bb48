"""`expunge finetune`, `expunge unlearn METHOD` and `expunge methods`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import App

from expunge.commands.show import FLAT, Json, show_rows, show_run
from expunge.processes import is_main
from expunge.recipes.finetune import FinetuneConfig
from expunge.recipes.finetune import finetune as finetune_recipe
from expunge.recipes.unlearn import UnlearnConfig
from expunge.recipes.unlearn import unlearn as unlearn_recipe
from expunge.training.impact import ImpactConfig
from expunge.training.objective import Need


def finetune(
    config: Annotated[FinetuneConfig, FLAT] = FinetuneConfig(),
    impact: Annotated[ImpactConfig, FLAT] = ImpactConfig(),
    *,
    json: Json = False,
) -> int:
    """Teach a model examples with LoRA; only answers are learnt, in the model's own chat template.

    Example: `expunge finetune --data-file dataset/forget.jsonl --data-file dataset/retain.jsonl --output target`;
    to try it out, `expunge finetune --dev --epochs 1`
    """
    run = finetune_recipe(config, impact)
    if is_main():
        show_run(run, json)
    return 0


def _unlearn_command(name: str) -> Callable[..., int]:
    def command(config: Any, settings: Any, impact: Any, *, json: bool = False) -> int:
        show_run(unlearn_recipe(config, name, settings, impact), json)
        return 0

    return command


def _unlearn_app() -> App:
    from expunge.methods import METHODS

    unlearning = App(name="unlearn", help="Make a model forget, and stop where people never trained on are.", help_epilogue="")
    for name in METHODS:
        method = METHODS[name]

        command = _unlearn_command(name)
        ledger = " --database ledger.db" if Need.IMPACT in method.needs else ""
        command.__doc__ = (
            f"{method.summary}\n\n{method.paper}.\n\nExample: `expunge unlearn {name} --model target/model --forget "
            f"forget.jsonl --retain retain.jsonl --holdout holdout.jsonl --output unlearned{ledger}`"
        )
        command.__annotations__ = {
            "config": Annotated[UnlearnConfig, FLAT],
            "settings": Annotated[method.config, FLAT],
            "impact": Annotated[ImpactConfig, FLAT],
            "json": Json,
            "return": int,
        }
        command.__defaults__ = (method.config(), ImpactConfig())
        unlearning.command(command, name=name)
    return unlearning


unlearn = _unlearn_app()


def methods(*, json: Json = False) -> int:
    """List the ways to unlearn.

    Example: `expunge methods --json`
    """
    from expunge.methods import METHODS

    found = [METHODS[name] for name in METHODS]
    show_rows([{"method": method.name, "what it does": method.summary, "paper": method.paper} for method in found], json)
    return 0
