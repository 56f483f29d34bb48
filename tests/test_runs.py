"""A run directory continues with the same settings, answers when it is done, and refuses everything else."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.runs import MANIFEST, Run, check_place, settings_of

SETTINGS = {"seed": 42, "lora": {"rank": 16}, "files": [Path("a.jsonl")]}
INPUTS = {"forget": "f" * 64}

WORKING = """
import sys, time
from pathlib import Path
from expunge.runs import Run
with Run.open(Path(sys.argv[1]), "unlearn npo", {"seed": 42}, {}) as run:
    (run.path / "checkpoint").write_text("half way")
    print("working", flush=True)
    time.sleep(60)
"""


def opened(path: Path, command: str = "unlearn npo", settings=SETTINGS, inputs=INPUTS):
    return Run.open(path, command, settings, inputs)


def finish(path: Path, **results: object) -> dict:
    with opened(path) as run:
        (run.path / "out.txt").write_text("done")
        run.finish({"out.txt": ""}, **results)
    return run.manifest


@contextmanager
def somebody_working_in(path: Path):
    with subprocess.Popen([sys.executable, "-c", WORKING, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "working\n"
        try:
            yield process
        finally:
            process.kill()


def refused(path: Path, **other) -> str:
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} if path.is_dir() else None
    with pytest.raises(ExpungeError) as caught, opened(path, **other):
        pytest.fail("it was opened")
    if before is not None:
        assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != ".lock"} == {
            name: content for name, content in before.items() if name != ".lock"
        }
    return str(caught.value).replace(str(path), "RUN")


def test_a_run_that_was_interrupted_continues_with_what_it_left(tmp_path):
    def interrupted() -> None:
        with opened(tmp_path / "run") as run:
            (run.path / "checkpoint").write_text("half way")
            started.append(run.manifest["started"])
            raise KeyboardInterrupt

    started: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with opened(tmp_path / "run") as again:
        assert not again.finished
        assert (again.path / "checkpoint").read_text() == "half way"
        assert again.manifest["started"] == started[0]


def test_a_finished_run_answers_with_its_results_and_the_hashes_of_its_outputs(tmp_path):
    made = finish(tmp_path / "run", steps=38, place=Path("a"))
    with opened(tmp_path / "run") as run:
        assert run.finished
        assert run.results == {"steps": 38, "place": "a"}
    assert Run.read(tmp_path / "run").manifest == made
    assert made["outputs"] == {"out.txt": hashlib.sha256(b"done").hexdigest()}
    assert made["peak_memory_bytes"] > 10_000_000
    assert made["versions"]["python"]


def test_a_finished_run_whose_output_is_gone_is_not_finished(tmp_path):
    finish(tmp_path / "run")
    (tmp_path / "run" / "out.txt").unlink()
    with opened(tmp_path / "run") as run:
        assert not run.finished


def test_other_settings_are_refused_and_what_differs_is_named(tmp_path):
    finish(tmp_path / "run")
    said = refused(tmp_path / "run", settings=SETTINGS | {"seed": 1, "lora": {"rank": 8}})
    assert said == (
        'RUN: this run directory was made by other settings (lora was {"rank": 16}, now {"rank": 8}; seed was 42, now 1): '
        "choose another --output, or remove this one"
    )
    assert "temperature was null, now 0.5" in refused(tmp_path / "run", settings=SETTINGS | {"temperature": 0.5})
    assert "it is a run of `unlearn npo`" in refused(tmp_path / "run", command="finetune")


def test_changed_content_of_an_input_is_refused_by_name(tmp_path):
    finish(tmp_path / "run")
    assert "the content of forget has changed" in refused(tmp_path / "run", inputs={"forget": "0" * 64})


def test_a_directory_with_other_files_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    assert refused(tmp_path) == "RUN: holds files that are not of a run (diary.txt): choose an empty or new --output"
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_file_and_a_place_under_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert refused(tmp_path / "file") == "RUN: is a file: give --output a directory"
    assert "cannot write here (Not a directory): choose another place" in refused(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    with opened(tmp_path) as run:
        assert not run.finished


def test_a_second_process_at_the_same_time_is_refused_and_one_after_a_kill_continues(tmp_path):
    path = tmp_path / "run"
    with somebody_working_in(path) as process:
        assert refused(path) == "RUN: another process works in this run: wait for it"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with opened(path, settings={"seed": 42}, inputs={}) as run:
        assert not run.finished
        assert (run.path / "checkpoint").read_text() == "half way"


def test_a_full_disk_leaves_the_manifest_as_it_was(tmp_path):
    path = tmp_path / "run"
    with opened(path):
        pass
    before = (path / MANIFEST).read_bytes()

    def finish_on_a_full_disk() -> None:
        with opened(path) as run:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            run.finish({}, trace=list(range(5000)))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(ExpungeError, match="the disk is full"):
            finish_on_a_full_disk()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path / MANIFEST).read_bytes() == before
    assert sorted(file.name for file in path.iterdir()) == [".lock", MANIFEST]


def test_a_manifest_that_cannot_be_read_is_refused_with_its_place(tmp_path):
    finish(tmp_path / "run")
    (tmp_path / "run" / MANIFEST).write_text('{"state": ')
    assert refused(tmp_path / "run").startswith("RUN/manifest.json: cannot be read")


def test_only_finished_runs_are_read_from(tmp_path):
    with pytest.raises(ExpungeError, match=r"is no run directory \(it has no manifest.json\): check the path"):
        Run.read(tmp_path)
    with opened(tmp_path / "run"):
        pass
    with pytest.raises(ExpungeError, match="this run is not finished: run its command again: it continues"):
        Run.read(tmp_path / "run")


def test_seconds_add_up_over_interruptions(tmp_path):
    with opened(tmp_path / "run") as run, run.timed("train"):
        pass
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    manifest["seconds"]["train"] = 100.0
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest))
    with opened(tmp_path / "run") as run, run.timed("train"):
        pass
    assert 100.0 <= run.manifest["seconds"]["train"] < 110.0


@dataclass(frozen=True)
class Connection:
    host: str = "here"
    api_key: str = "hush"


@dataclass(frozen=True)
class Config:
    output: Path = Path("run")
    max_new_tokens: int = 7
    keyboard: str = "qwerty"
    token: str = "hush"
    hub_token: str = "hush"
    db_password: str = "hush"
    servers: tuple[Connection, ...] = (Connection(),)


def test_secrets_never_come_into_the_settings_but_words_like_them_do():
    found = settings_of(Config(), without=("output",))
    assert found == {"max_new_tokens": 7, "keyboard": "qwerty", "servers": [{"host": "here"}]}


def test_a_place_is_checked_before_the_work_without_making_anything(tmp_path):
    check_place(tmp_path / "not" / "there" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for bad, words in (("file", "is a file"), ("file/below", r"cannot write here \(Not a directory\): choose another place")):
        with pytest.raises(ExpungeError, match=words):
            check_place(tmp_path / bad)
    with pytest.raises(ExpungeError, match="holds files that are not of a run"):
        check_place(tmp_path)
    with opened(tmp_path / "run"):
        pass
    check_place(tmp_path / "run")
