"""Several processes that train one model together, as `accelerate launch` starts them: who writes, and who waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def count() -> int:
    """How many processes work together; 1 unless a launcher says otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine() -> int:
    """How many of them share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the one that writes files and speaks."""
    return rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block first, and the others once it has come to the end of it.

    If the main process refuses to go on, the others never begin, and its launcher ends them: a mistake is reported once.
    """
    if not is_main():
        wait_for_all()
    yield
    if is_main():
        wait_for_all()


def wait_for_all() -> None:
    """Wait until every process is here."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def model_is_spread() -> bool:
    """Whether each process holds a part of the model only, so that all of them must run it in step (FSDP, DeepSpeed)."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
