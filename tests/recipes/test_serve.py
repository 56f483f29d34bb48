"""`expunge serve` as a user meets it: a real process, asked over its address and ended by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

import tiny_models
from expunge.deploy.chat_api import ChatApi
from expunge.deploy.gguf import make_gguf
from expunge.errors import ExpungeError
from expunge.recipes.serve import KEY, ServeConfig, serving


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve")
    model = tiny_models.write_model(place / "model", hidden=256, layers=1)
    (made,) = make_gguf(model, place / "gguf", ["f16"], name="tiny")
    return made.path


@contextmanager
def running(*words):
    command = [sys.executable, "-m", "expunge", "serve", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process):
    """The JSON that it prints when it is ready."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            return json.loads("".join(lines))
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_it_says_where_it_listens_answers_and_ends_cleanly(file, signal_):
    with running(file, "--port", 0, "--threads", 1, "--json") as process:
        ready = said(process)
        assert ready["models"] == ["tiny-f16"]
        assert ready["url"].startswith("http://127.0.0.1:")
        api = ChatApi(ready["url"])
        assert api.models() == ["tiny-f16"]
        assert api.answer("Who was seen?", max_tokens=3).tokens == 3
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal_)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_ended_while_it_still_loads_it_leaves_nothing_behind(file):
    with running(file, "--port", 0, "--threads", 1) as process:
        own = psutil.Process(process.pid)
        while not (children := own.children(recursive=True)):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert not psutil.wait_procs(children, timeout=10)[1]


def refused(*words):
    done = subprocess.run(
        [sys.executable, "-m", "expunge", "serve", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_what_cannot_be_served_is_one_line(file, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:-100])
    assert "cut.gguf: is truncated" in refused(tmp_path / "cut.gguf", "--port", 0)
    (tmp_path / "odd.gguf").write_bytes(file.read_bytes().replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight"))
    assert "odd.gguf: llama.cpp cannot load it" in refused(tmp_path / "odd.gguf", "--port", 0)
    (tmp_path / "taken").touch()
    assert "log: cannot write here" in refused(file, "--port", 0, "--log", tmp_path / "taken" / "log")
    assert "--port is -1: give at least 0" in refused(file, "--port", -1)


def test_the_environment_gives_the_key_and_a_door_open_to_the_network_without_one_is_said(file, tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):  # Of several, none is loaded before it is asked.
        os.link(file, tmp_path / f"{name}.gguf")
    monkeypatch.setenv(KEY, "sesame")
    with serving(tmp_path, ServeConfig(port=0)) as served:
        with pytest.raises(ExpungeError, match="HTTP 401"):
            ChatApi(served.url).models()
        assert ChatApi(served.url, key="sesame").models() == ["one", "two"]
    with serving(tmp_path, ServeConfig(port=0, host="0.0.0.0")):
        assert capsys.readouterr().err == ""
    monkeypatch.delenv(KEY)
    with serving(tmp_path, ServeConfig(port=0)):
        assert capsys.readouterr().err == ""
    with serving(tmp_path, ServeConfig(port=0, host="0.0.0.0")):
        assert "0.0.0.0 can be reached from the network" in capsys.readouterr().err
