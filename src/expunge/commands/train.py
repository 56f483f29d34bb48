"""`expunge finetune`, `expunge unlearn METHOD`, `expunge shards` and `expunge methods`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import App

from expunge.commands.show import FLAT, Json, show_rows, show_run
from expunge.processes import is_main
from expunge.recipes.finetune import FinetuneConfig
from expunge.recipes.finetune import finetune as finetune_recipe
from expunge.recipes.retrain import RetrainConfig
from expunge.recipes.retrain import retrain as retrain_recipe
from expunge.recipes.shards import ForgetShardsConfig, ShardsConfig, forget_shards, train_shards
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
        run = unlearn_recipe(config, name, settings, impact)
        if is_main():
            show_run(run, json)
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
    unlearning.command(_retrain, name="retrain")
    return unlearning


def _retrain(config: Annotated[RetrainConfig, FLAT], *, json: Json = False) -> int:
    """Train the target anew without the people who go: exact unlearning, with a certificate.

    Example: `expunge unlearn retrain --model target --forget forget.jsonl --output retrained --database ledger.db`
    """
    show_run(retrain_recipe(config), json)
    return 0


unlearn = _unlearn_app()

shards = App(name="shards", help="Adapters on disjoint shards of people: a deletion trains one of them anew.", help_epilogue="")


@shards.command(name="train")
def _train(config: Annotated[ShardsConfig, FLAT], *, json: Json = False) -> int:
    """Train an adapter on each shard of people, and combine them.

    Example: `expunge shards train --data-file notes.jsonl --shards 4 --output sharded --database ledger.db`
    """
    show_run(train_shards(config), json)
    return 0


@shards.command(name="forget")
def _forget(config: Annotated[ForgetShardsConfig, FLAT], *, json: Json = False) -> int:
    """Train the shards of those who go anew without them: exact unlearning, with a certificate.

    Example: `expunge shards forget --model sharded --forget forget.jsonl --output sharded-2 --database ledger.db`
    """
    show_run(forget_shards(config), json)
    return 0


def methods(*, json: Json = False) -> int:
    """List the ways to unlearn.

    Example: `expunge methods --json`
    """
    from expunge.methods import METHODS

    found = [METHODS[name] for name in METHODS]
    rows = [{"method": method.name, "what it does": method.summary, "paper": method.paper} for method in found]
    # They train as the target was trained, so they have no loss of their own.
    exact = [
        ("retrain", "Train the target anew without the people who go.", "exact; what every other method is held against"),
        (
            "shards",
            "Train the shards of the people who go anew without them.",
            "exact; Bourtoule et al. 2019, arXiv 1912.03817",
        ),
    ]
    rows += [{"method": name, "what it does": what, "paper": paper} for name, what, paper in exact]
    show_rows(sorted(rows, key=lambda row: row["method"]), json)
    return 0
