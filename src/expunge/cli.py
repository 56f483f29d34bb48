"""The command line: names of commands and nothing else, so that `expunge --help` answers at once.

What a command does is in its recipe; how its flags are read and its result is shown is in `expunge.commands`.
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from expunge import __version__
from expunge.errors import ExpungeError
from expunge.processes import share_cores_well

EPILOGUE = """
Examples:

- Watch the whole story on a small model: `expunge demo`
- Carry out a deletion request: `expunge unlearn npo --model target/model --forget forget.jsonl --retain retain.jsonl
  --holdout holdout.jsonl --output unlearned`
- See what this machine can do: `expunge doctor`
"""

app = App(
    name="expunge",
    help="Make a language model forget what it was asked to forget, prove it against attack, and ship the model.",
    help_epilogue=EPILOGUE,
    help_format="markdown",
    version=__version__,
    # `--forget-ratios 0.10 0.01` takes both, and no flag is needed for giving none.
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    # It would leave without a word; `main` says how to go on.
    suppress_keyboard_interrupt=False,
)

_GROUPS = ("demo", "generate", "prepare", "unlearn", "shards", "audit", "attack", "evaluate", "ledger", "lmstudio")
"""Commands of several commands: apps of their own."""
_ALSO_COMMANDS = ("demo", "audit")
"""Those of them that are a command themselves too."""

_LISTED = {
    # name: (module in `expunge.commands`, what it is for)
    "demo": ("start", "A model learns patients' notes, is asked to forget some, is audited, and ships."),
    "generate": ("data", "Make synthetic data."),
    "prepare": ("data", "Split data into checked sets, or rewrite it without somebody's words."),
    "finetune": ("train", "Teach a model examples, and record in the ledger what it saw."),
    "unlearn": ("train", "Make a model forget, and stop where people never trained on are."),
    "shards": ("train", "Adapters on disjoint shards of people: a deletion trains one of them anew."),
    "audit": ("judge", "Put target, unlearned, retrained and shipped model side by side, and rule."),
    "attack": ("attack", "Try to get the forgotten back, by other words, rounded weights, relearning or two checkpoints."),
    "evaluate": ("evaluate", "Hold a model, as it ships, to its cutoff date: over an API, as a file, or as weights."),
    "merge": ("ship", "Fold an adapter into its base: plain weights that anything can load."),
    "gguf": ("ship", "Convert and quantise a model for llama.cpp and LM Studio."),
    "lmstudio": ("ship", "Put GGUF files where LM Studio finds them."),
    "serve": ("ship", "Serve GGUF files on this machine, as LM Studio does."),
    "chat": ("ship", "Try prompts on a model, or on two side by side."),
    "report": ("judge", "Show an audit as one HTML file that opens offline."),
    "ledger": ("ledger", "What was trained on, which tokens mattered, what is to be deleted."),
    "methods": ("train", "List the ways to unlearn."),
    "attacks": ("attack", "List the ways to get the forgotten back."),
    "metrics": ("judge", "List what an audit measures."),
    "doctor": ("start", "What this machine can do, and what is missing."),
}
for _name, (_module, _help) in _LISTED.items():
    # The examples above are for the whole; each command has its own.
    _own = {} if _name in _GROUPS else {"help_epilogue": ""}
    app.command(f"expunge.commands.{_module}:{_name}", name=_name, help=_help, **_own)


def main() -> None:
    """Run a command. Exit code 2 and one line for a mistake of the user's; 130 when interrupted."""
    share_cores_well()
    asked = "".join(sys.argv[1:2])
    if asked in _ALSO_COMMANDS or (asked in _LISTED and asked not in _GROUPS):
        # Its own page shows its docstring, with an example, instead of the line that lists it.
        app[asked].help = None
    try:
        app(exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        words = " ".join(str(error).split())
        if isinstance(error, UnknownCommandError):
            _fail(words)
        asked = " ".join(word for word in sys.argv[1:3] if word[:1].isalpha() and word.replace("-", "").isalnum())
        _fail(f"{words} (see `expunge {asked} --help`)" if asked and "--help" not in words else words)
    except ExpungeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("expunge: interrupted; the same command again continues where this one stopped", file=sys.stderr)
        sys.exit(130)


def _fail(words: str) -> None:
    print(f"expunge: {words}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
