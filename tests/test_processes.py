"""Calls that work beside one another, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from expunge.errors import ExpungeError
from expunge.processes import side_by_side, threads_to_use


def meet(own: Path, other: Path) -> None:
    """Done only when the other has begun too."""
    own.write_text(str(os.getpid()))
    deadline = time.monotonic() + 30
    while not other.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refuse(after: Path) -> None:
    while not after.exists():
        time.sleep(0.01)
    raise ExpungeError("no such patient", where="notes.jsonl:3", remedy="check the name")


def wait_in(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(60)


def kill_oneself(after: Path) -> None:
    while not (after.exists() and after.read_text()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def runs(process: int) -> bool:
    # A dead child that nobody has waited for still has its number.
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def until_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while runs(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_calls_run_at_the_same_time_each_in_its_own_process(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    side_by_side(partial(meet, one, two), partial(meet, two, one))
    assert len({one.read_text(), two.read_text(), str(os.getpid())}) == 3


def test_a_refusal_of_one_ends_the_other_and_is_raised_here_word_for_word(tmp_path):
    start = time.monotonic()
    with pytest.raises(ExpungeError) as caught:
        side_by_side(partial(wait_in, tmp_path / "long"), partial(refuse, tmp_path / "long"))
    assert str(caught.value) == "notes.jsonl:3: no such patient: check the name"
    assert time.monotonic() - start < 40
    until_gone(int((tmp_path / "long").read_text()))


def test_one_that_is_killed_is_said_and_the_other_ended(tmp_path):
    start = time.monotonic()
    with pytest.raises(ExpungeError, match="a process was ended from outside: free memory"):
        side_by_side(partial(wait_in, tmp_path / "long"), partial(kill_oneself, tmp_path / "long"))
    assert time.monotonic() - start < 40
    until_gone(int((tmp_path / "long").read_text()))


def test_they_end_with_a_process_that_is_killed(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from functools import partial
from pathlib import Path
from test_processes import wait_in
from expunge.processes import side_by_side
if __name__ == "__main__":
    side_by_side(partial(wait_in, Path("one")), partial(wait_in, Path("two")))
"""
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path)
    places = tmp_path / "one", tmp_path / "two"
    deadline = time.monotonic() + 30
    while not all(place.exists() and place.read_text() for place in places):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for place in places:
        until_gone(int(place.read_text()))


def test_threads_are_as_asked_else_as_the_environment_says_else_one_a_core(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_to_use(5) == 5
    assert threads_to_use(None) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr("expunge.processes.cores", lambda: 8)
    assert threads_to_use(None) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads_to_use(None) == 4
