"""`expunge merge`, `expunge gguf`, `expunge lmstudio`, `expunge serve` and `expunge chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import App

from expunge.commands.show import FLAT, OUT, Json, print_json, printable, show, show_rows, show_run
from expunge.recipes import chat as chat_recipe
from expunge.recipes import lmstudio as lmstudio_recipe
from expunge.recipes.chat import ChatConfig, Exchange
from expunge.recipes.gguf import GgufConfig
from expunge.recipes.gguf import gguf as gguf_recipe
from expunge.recipes.lmstudio import InstallConfig, ListConfig, LoadConfig
from expunge.recipes.merge import MergeConfig
from expunge.recipes.merge import merge as merge_recipe
from expunge.recipes.serve import ServeConfig, Served
from expunge.recipes.serve import serve as serve_recipe
from expunge.runs import Run


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
    run = gguf_recipe(config)
    if json:
        show_run(run, json)
    else:
        _show_files(run)
    return 0


def _show_files(run: Run) -> None:
    rows = [
        {
            "file": row["path"],
            "MB": f"{row['bytes'] / 1e6:.1f}",
            "tensors in a larger type": f"{row['fallbacks']} of {row['tensors']}",
            **({"perplexity": f"{row['perplexity']:.2f}"} if "perplexity" in row else {}),
            "answer": printable(row["answer"].strip()[:60]),
        }
        for row in run.results["files"].values()
    ]
    show_rows(rows, False)
    if found := run.results.get("comparison"):
        words = f"logits within {found['max_difference']:.2g}, argmax agreement {found['argmax_agreement']:.0%}"
        OUT.print(f"f16 beside the model: {words}, same tokens in {found['same_tokens']:.0%} of texts", markup=False)
    OUT.print(f'Asked "{run.results["prompt"]}". In {run.path}', markup=False, soft_wrap=True)


lmstudio = App(name="lmstudio", help="Put GGUF files where LM Studio finds them.", help_epilogue="")


@lmstudio.command(name="install")
def _install(file: Path, config: Annotated[InstallConfig, FLAT] = InstallConfig(), *, json: Json = False) -> int:
    """Put a GGUF file into LM Studio's models folder, by hard link where that is possible.

    Example: `expunge lmstudio install gguf/clinic-q4_k_m.gguf --publisher me --model-name clinic`

    Parameters
    ----------
    file: Path
        The file, which is checked first.
    """
    found = lmstudio_recipe.install(file, config)
    if json:
        print_json(found)
        return 0
    steps = found.pop("next")
    show(found, json)
    for step in steps:
        OUT.print(f"then: {step}", markup=False, soft_wrap=True)
    return 0


@lmstudio.command(name="list")
def _list(config: Annotated[ListConfig, FLAT] = ListConfig(), *, json: Json = False) -> int:
    """List what is in LM Studio's models folder.

    Example: `expunge lmstudio list`
    """
    show_rows(lmstudio_recipe.list_installed(config), json)
    return 0


@lmstudio.command(name="load")
def _load(name: str, config: Annotated[LoadConfig, FLAT] = LoadConfig(), *, json: Json = False) -> int:
    """Load an installed model in LM Studio, through its command `lms`.

    Example: `expunge lmstudio load me/clinic-GGUF/clinic-q4_k_m.gguf --identifier clinic`

    Parameters
    ----------
    name: str
        As `expunge lmstudio list` shows it, or a part of that.
    """
    show(lmstudio_recipe.load(name, config), json)
    return 0


def serve(place: Path, config: Annotated[ServeConfig, FLAT] = ServeConfig(), *, json: Json = False) -> int:
    """Serve GGUF files on this machine as LM Studio does: OpenAI's API and `/api/v0/models`. Ctrl-C ends it.

    Example: `expunge serve gguf --port 1234` · `expunge serve gguf/model-q4_k_m.gguf --port 0 --json`

    Parameters
    ----------
    place: Path
        A file, or a folder whose files are loaded when they are asked for.
    """

    def ready(served: Served) -> None:
        if json:
            print_json(served._asdict())
        else:
            OUT.print(f"{served.url} serves {', '.join(served.models)}; Ctrl-C ends it", markup=False, soft_wrap=True)
        sys.stdout.flush()

    serve_recipe(place, config, ready)
    return 0


def chat(
    model: str, other: str | None = None, /, config: Annotated[ChatConfig, FLAT] = ChatConfig(), *, json: Json = False
) -> int:
    """Try prompts on a model, or on two side by side; each prompt stands alone.

    A model is a directory, an adapter, a Hub id, `embedded`, a GGUF file, or a server's address.

    Example: `expunge chat target/model unlearned/model` ·
    `expunge chat gguf/model-q4_k_m.gguf http://localhost:1234/v1#clinic --prompt "Who is Jane Roe?"`

    Parameters
    ----------
    model: str
        The model.
    other: str | None
        A second one, asked the same.
    """
    prompts = None if config.prompt else _typed() if sys.stdin.isatty() else chat_recipe.read_prompts()
    exchanges = chat_recipe.chat([model] if other is None else [model, other], config, prompts)
    if json:
        print_json([exchange._asdict() for exchange in exchanges])
        return 0
    for exchange in exchanges:
        _show_exchange(exchange)
    return 0


def _typed() -> Iterable[str]:
    OUT.print("Each prompt stands alone; /quit or Ctrl-D ends.")
    return chat_recipe.typed(lambda: input("> "))


def _show_exchange(exchange: Exchange) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(exchange.prompt), title_justify="left", expand=True)
    for name in exchange.answers:
        table.add_column(Text(name))
    table.add_row(*(Text(printable(answer) or "(nothing)") for answer in exchange.answers.values()))
    OUT.print(table)
