"""Files appear whole or not at all, whatever happens to the process or the disk."""

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.files import (
    directory_written_atomically,
    fingerprint,
    free_bytes,
    is_disk_full,
    refuse_small_disk,
    reported_disk_errors,
    sha256,
    write_json,
    written_atomically,
)

KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from expunge.files import directory_written_atomically, written_atomically

if sys.argv[1] == "file":
    with written_atomically(Path(sys.argv[2])) as stream:
        stream.write("half of the new")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
else:
    with directory_written_atomically(Path(sys.argv[2])) as scratch:
        (scratch / "new").write_text("half of the new")
        os.kill(os.getpid(), signal.SIGKILL)
"""
ON_A_FULL_DISK = """
import sys
from pathlib import Path
from expunge.errors import ExpungeError
from expunge.files import directory_written_atomically, written_atomically

path = Path(sys.argv[2])
try:
    if sys.argv[1] == "file":
        with written_atomically(path) as stream:
            stream.write("x" * 1_000_000)
    elif sys.argv[1] == "directory":
        with directory_written_atomically(path) as scratch:
            (scratch / "new").write_text("x" * 1_000_000)
    else:
        import numpy
        from safetensors.numpy import save_file

        with directory_written_atomically(path) as scratch:
            save_file({"weight": numpy.ones(1_000_000)}, scratch / "model.safetensors")
except ExpungeError as error:
    print(error)
"""


def run(script: str, *args: object, preexec_fn=None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=preexec_fn)


def files_of_100_kilobytes_at_most() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def write_half(path: Path, error: type[BaseException]) -> None:
    with written_atomically(path) as stream:
        stream.write("half of the new")
        raise error


def write_half_a_directory(path: Path) -> None:
    with directory_written_atomically(path) as scratch:
        (scratch / "new").write_text("half")
        raise ZeroDivisionError


def names_in(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def test_a_file_is_written_with_the_folders_above_it_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a" / "b" / "notes.txt"
    for words in ("old\n", "new: ä\n"):
        with written_atomically(path) as stream:
            stream.write(words)
    assert path.read_bytes() == "new: ä\n".encode()
    assert names_in(path.parent) == ["notes.txt"]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path):
    path = tmp_path / "notes.txt"
    with written_atomically(path) as stream:
        stream.write("half")
        stream.flush()
        assert not path.exists()
    assert path.read_text() == "half"


def test_an_exception_in_the_middle_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(path, ZeroDivisionError)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["notes.txt"]


def test_ctrl_c_in_the_middle_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path, KeyboardInterrupt)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["notes.txt"]


def test_kill_9_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("old")
    assert run(KILLED_IN_THE_MIDDLE, "file", path).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_kill_9_in_the_middle_leaves_the_old_directory_and_the_next_writer_sweeps_up(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    assert run(KILLED_IN_THE_MIDDLE, "directory", path).returncode == -signal.SIGKILL
    assert names_in(path) == ["old"]
    with directory_written_atomically(path) as scratch:
        assert names_in(scratch) == []
        (scratch / "new").write_text("new")
    assert names_in(path) == ["new"]
    assert names_in(tmp_path) == ["model"]


def test_a_directory_that_fails_in_the_middle_leaves_the_old_one(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half_a_directory(path)
    assert names_in(path) == ["old"]
    assert names_in(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ["file", "directory", "weights"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "file":
        path.write_text("old")
    else:
        path.mkdir()
    tried = run(ON_A_FULL_DISK, kind, path, preexec_fn=files_of_100_kilobytes_at_most)
    assert tried.stderr == ""
    (line,) = tried.stdout.splitlines()
    assert line.startswith(str(tmp_path))
    assert line.endswith("the disk is full: free some space and run the command again")
    assert names_in(tmp_path) == ["there"]
    assert names_in(path) == [] if path.is_dir() else path.read_text() == "old"


@pytest.mark.parametrize("below", ["notes.txt", "deeper/notes.txt"])
def test_a_place_under_a_file_is_one_line(tmp_path, below):
    (tmp_path / "file").write_text("old")
    with (
        pytest.raises(ExpungeError, match=r"file.*: cannot write here \(.*\): choose another place$"),
        written_atomically(tmp_path / "file" / below),
    ):
        pass
    with (
        pytest.raises(ExpungeError, match=r"cannot write here \(.*\): choose another place$"),
        directory_written_atomically(tmp_path / "file" / below),
    ):
        pass
    assert names_in(tmp_path) == ["file"]


def test_a_name_longer_than_the_disk_takes_is_one_line(tmp_path):
    with pytest.raises(ExpungeError, match="File name too long"), written_atomically(tmp_path / ("x" * 300)):
        pass


def test_a_directory_where_a_file_should_go_is_one_line_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").mkdir()
    with pytest.raises(ExpungeError, match="cannot write here"), written_atomically(tmp_path / "notes.txt") as stream:
        stream.write("new")
    assert names_in(tmp_path) == ["notes.txt"]


def test_a_folder_that_forbids_writing_is_one_line(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o555)
    try:
        if os.geteuid() == 0:
            pytest.skip("nothing is forbidden to root")
        with pytest.raises(ExpungeError, match="Permission denied"), written_atomically(tmp_path / "mine" / "notes.txt"):
            pass
    finally:
        (tmp_path / "mine").chmod(0o755)


def test_a_new_file_gets_the_rights_any_other_new_file_gets(tmp_path):
    (tmp_path / "plain").write_text("")
    with written_atomically(tmp_path / "atomic"):
        pass
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_is_written_for_people_to_read_and_refuses_what_json_cannot_say(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "Łucja", "share": 0.5})
    assert path.read_text("utf-8") == '{\n  "name": "Łucja",\n  "share": 0.5\n}\n'
    with pytest.raises(ValueError):
        write_json(path, {"share": float("nan")})
    assert "Łucja" in path.read_text("utf-8")


def test_an_error_that_is_nothing_of_the_disks_passes_unchanged(tmp_path):
    with pytest.raises(OSError) as caught, reported_disk_errors(tmp_path):
        raise OSError(errno.ECONNREFUSED, "refused")
    assert not isinstance(caught.value, ExpungeError)
    with pytest.raises(ExpungeError, match=r"^mine$"), reported_disk_errors(tmp_path):
        raise ExpungeError("mine")


def test_the_words_of_native_code_about_a_full_disk_are_understood():
    assert is_disk_full("SafetensorError: I/O error: No space left on device (os error 28)")
    assert is_disk_full("basic_ios::clear: iostream error")
    assert not is_disk_full("no such tensor")


def test_work_that_will_not_fit_on_the_disk_is_refused_before_it_begins(tmp_path):
    place = tmp_path / "not" / "there" / "yet"
    refuse_small_disk(1, place)
    with pytest.raises(ExpungeError, match=r"yet: the disk is full \(\d+ MB are needed, \d+ MB are free\): free some space"):
        refuse_small_disk(free_bytes(place) * 2 + 10**9, place)
    assert not (tmp_path / "not").exists()


def test_a_fingerprint_depends_on_the_content_and_not_on_the_order_of_keys(tmp_path):
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    (tmp_path / "file").write_bytes(b"content")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
