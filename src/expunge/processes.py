"""Several processes: those that train one model together, as `accelerate launch` starts them, and those that work beside
one another on different ones."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess


def count() -> int:
    """How many processes work together; 1 unless a launcher says otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine() -> int:
    """How many of them share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_to_use(threads: int | None) -> int:
    """How many threads to compute with: as asked, else as OMP_NUM_THREADS says, else one a core, shared with the processes
    that train along."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return threads or int(told if told.isdecimal() else 0) or max(1, cores() // on_this_machine())


def share_cores_well() -> None:
    """Let threads that wait for one another give their core away sooner; to be called before PyTorch is imported.

    GNU's OpenMP lets them wait in a loop for long, which is quick where each has a core of its own, and ruinous where others
    want it. A training step of SmolLM2-135M with two threads on two cores (`benchmarks/step_speed.py`): .87 s on quiet cores
    and 3.06 s beside one busy program; with this, .93 s and 2.19 s.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


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


def side_by_side(*calls: Callable[[], object]) -> None:
    """Go through calls that do not need each other, all at once, each in a process of its own; they say what they do in lines.

    A small model cannot keep two cores busy: two models that take one each are done sooner than one after the other with
    both. The calls must be picklable. They end with this process, however it ends.

    Raises:
        Exception: what the first that failed has raised; the others are ended.
        ExpungeError: one was ended from outside.
    """
    import multiprocessing
    from multiprocessing.connection import wait

    spawn = multiprocessing.get_context("spawn")
    working: dict[Connection, SpawnProcess] = {}
    try:
        for call in calls:
            told, tells = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_work_beside, args=(call, tells))
            process.start()
            tells.close()
            working[told] = process
        while working:
            ready = wait([*working])
            for told in [each for each in working if each in ready]:
                try:
                    error = told.recv()
                except EOFError:
                    raise ExpungeError("a process was ended from outside", remedy="free memory, or pass --threads 1") from None
                if error is not None:
                    raise error
                working.pop(told).join()
    finally:
        for process in working.values():
            process.terminate()
            process.join()


def _work_beside(call: Callable[[], object], tells: Connection) -> None:
    # Ctrl-C is for the process that asked, which then ends this one: by an exception, so that nothing is left lying about.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Two bars that move on one terminal would write over each other. rich heeds this when the console is made.
    os.environ["TTY_COMPATIBLE"] = "0"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        call()
    except Exception as error:
        tells.send(error)
    else:
        tells.send(None)


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def model_is_spread() -> bool:
    """Whether each process holds a part of the model only, so that all of them must run it in step (FSDP, DeepSpeed)."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
