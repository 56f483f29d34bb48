from __future__ import annotations

import json
import os
import shutil
import stat

import pytest

from expunge.deploy import lmstudio
from expunge.errors import ExpungeError

# `lms import`, `lms ps` and `lms load` as far as github.com/lmstudio-ai/lms documents them: it moves unless told otherwise,
# refuses a file that is there, and writes down how it was called.
LMS = """#!/bin/sh
echo "$@" >> "$HOME/called"
case "$1" in
import)
  place="$HOME/.lmstudio/models/$4/$(basename "$2")"
  [ -e "$place" ] && { echo "Target file already exists: $place" >&2; exit 1; }
  mkdir -p "$(dirname "$place")"
  case "$5" in
  --hard-link) [ -e "$HOME/no-links" ] && { echo "EXDEV: cross-device link not permitted" >&2; exit 1; }; ln "$2" "$place" ;;
  --copy) cp "$2" "$place" ;;
  *) mv "$2" "$place" ;;
  esac ;;
ps) echo '[{"path": "me/clinic-GGUF/tiny-q4_k_m.gguf", "identifier": "clinic"}]' ;;
load) [ "$2" = none ] && { echo "Model not found" >&2; exit 1; }; echo "Model loaded successfully in 1.2s." ;;
esac
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's directory without LM Studio, and without whatever this machine has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


@pytest.fixture
def lms(home, monkeypatch):
    script = home / "bin" / "lms"
    script.parent.mkdir()
    script.write_text(LMS)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    return home


@pytest.fixture
def file(ggufs, tmp_path):
    """A file of one's own, so that no test links to what others read."""
    return shutil.copy(ggufs["q4_k_m"].path, tmp_path / "tiny-q4_k_m.gguf")


def refused(**options):
    with pytest.raises(ExpungeError) as caught:
        lmstudio.install(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_lms_the_file_is_linked_into_place_and_what_is_left_to_do_is_said(home, file):
    found = lmstudio.install(file, publisher="me", name="clinic")
    assert found.path == home / ".lmstudio" / "models" / "me" / "clinic-GGUF" / "tiny-q4_k_m.gguf"
    assert found.how == "hard link"
    assert found.path.samefile(file)
    assert [path.name for path in found.path.parent.iterdir()] == ["tiny-q4_k_m.gguf"]
    first, *_, last = lmstudio.next_steps(found)
    assert "choose me/clinic-GGUF/tiny-q4_k_m.gguf under Select a model to load" in first
    assert last == f"without LM Studio: expunge serve {found.path}"


def test_a_name_that_ends_so_already_gets_no_second_ending(home, file):
    assert lmstudio.install(file, name="Clinic-gguf").name == "expunge/Clinic-gguf/tiny-q4_k_m.gguf"


def test_a_link_to_a_file_is_followed(lms, file):
    link = lms / "links" / "other.gguf"
    link.parent.mkdir()
    link.symlink_to("../tiny-q4_k_m.gguf")
    found = lmstudio.install(link, name="clinic")
    assert (found.path.name, found.how) == ("other.gguf", "hard link")
    assert not found.path.is_symlink()
    assert found.path.samefile(file)


def test_where_no_link_can_be_made_it_is_copied_whole(home, file, monkeypatch):
    def no_links(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    found = lmstudio.install(file, name="clinic")
    assert found.how == "copy"
    assert found.path.read_bytes() == file.read_bytes()


def test_a_disk_too_small_for_a_copy_is_noticed_before_it_is_made(home, file, monkeypatch):
    monkeypatch.setattr(os, "link", lambda source, target: (_ for _ in ()).throw(OSError(18, "cross-device")))
    monkeypatch.setattr("expunge.files.free_bytes", lambda path: 1000)
    assert "the disk is full" in refused(file=file, name="clinic")
    assert not list((home / ".lmstudio").rglob("*.*"))


def test_the_same_file_is_there_already_and_another_is_not_replaced_unasked(home, file, ggufs):
    found = lmstudio.install(file, name="clinic")
    assert lmstudio.install(file, name="clinic").how == "there already"
    found.path.unlink()
    shutil.copy(ggufs["q8_0"].path, found.path)
    assert "another file is there already: pass --overwrite" in refused(file=file, name="clinic")
    lmstudio.install(file, name="clinic", overwrite=True)
    assert found.path.samefile(file)


@pytest.mark.parametrize("name", ["../evil", "..", "", ".hidden", "a/b", "-rf", "a\\b", "name.", "a\nb", "x" * 101])
def test_a_name_is_never_a_way_out_of_the_folder(home, file, name):
    assert "cannot be part of a file name" in refused(file=file, name=name)
    assert "cannot be part of a file name" in refused(file=file, name="clinic", publisher=name)
    assert not (home / ".lmstudio").exists()


def test_broken_files_are_refused_before_anything_is_made(home, tmp_path, file):
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:-5000])
    assert "cut.gguf: is truncated" in refused(file=tmp_path / "cut.gguf", name="clinic")
    (tmp_path / "none.gguf").write_text("something else")
    assert "is no GGUF file" in refused(file=tmp_path / "none.gguf", name="clinic")
    assert not (home / ".lmstudio").exists()


def test_a_folder_that_cannot_be_written_is_one_line(home, file):
    (home / "taken").write_text("")
    assert "cannot write here" in refused(file=file, name="clinic", folder=home / "taken")


def test_the_folder_is_the_one_that_lm_studio_was_set_to(home, file):
    place = home / "elsewhere"
    (home / ".lmstudio-home-pointer").write_text(f"{place}\n")
    assert lmstudio.models_folder() == place / "models"
    place.mkdir()
    (place / "settings.json").write_text(json.dumps({"downloadsFolder": str(home / "big disk")}))
    assert lmstudio.install(file, name="clinic").path.is_relative_to(home / "big disk")
    (place / "settings.json").write_text("{")
    assert lmstudio.models_folder() == place / "models"


def test_the_old_home_is_used_where_it_is_there(home):
    (home / ".cache" / "lm-studio").mkdir(parents=True)
    assert lmstudio.models_folder() == home / ".cache" / "lm-studio" / "models"


def test_lms_imports_by_link_and_never_moves_the_file_away(lms, file):
    found = lmstudio.install(file, publisher="me", name="clinic")
    assert found.how == "lms"
    assert found.path.samefile(file)
    assert (lms / "called").read_text() == f"import {file} --user-repo me/clinic-GGUF --hard-link -y\n"
    assert lmstudio.next_steps(found)[0] == "lms load me/clinic-GGUF/tiny-q4_k_m.gguf -y"
    assert lmstudio.install(file, publisher="me", name="clinic").how == "there already"


def test_where_lms_cannot_link_it_copies(lms, file):
    (lms / "no-links").touch()
    found = lmstudio.install(file, publisher="me", name="clinic")
    assert not found.path.samefile(file)
    assert found.path.read_bytes() == file.read_bytes()


def test_what_lms_says_when_it_refuses_is_one_line(lms, file):
    (lms / "bin" / "lms").write_text("#!/bin/sh\necho 'first\nNot logged in' >&2\nexit 1\n")
    assert "`lms import " in (words := refused(file=file, name="clinic"))
    assert "failed (Not logged in)" in words


def test_another_folder_is_ours_to_fill_since_lms_knows_only_its_own(lms, file):
    assert lmstudio.install(file, name="clinic", folder=lms / "other").how == "hard link"
    assert not (lms / "called").exists()


def test_lms_in_lm_studios_own_place_is_found_though_it_is_not_on_the_path(home):
    own = home / ".lmstudio" / "bin" / "lms"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    assert lmstudio.lms() is None
    own.chmod(own.stat().st_mode | stat.S_IXUSR)
    assert lmstudio.lms() == str(own)


def test_what_is_installed_is_listed_by_path_with_what_the_files_say(lms, file, ggufs):
    lmstudio.install(file, publisher="me", name="clinic")
    lmstudio.install(ggufs["f16"].path, name="clinic")
    (lms / ".lmstudio" / "models" / "broken.gguf").write_text("no")
    f16, four = lmstudio.installed()
    assert (f16.id, f16.quantization, f16.publisher) == ("expunge/clinic-GGUF/tiny-f16.gguf", "F16", "expunge")
    assert (four.id, four.quantization, four.arch) == ("me/clinic-GGUF/tiny-q4_k_m.gguf", "Q4_K_M", "llama")
    assert four.longest_context == 512
    assert lmstudio.loaded() == [four.id]


def test_an_empty_folder_lists_nothing_and_none_is_one_line(home):
    with pytest.raises(ExpungeError, match="models folder is not there"):
        lmstudio.installed()
    lmstudio.models_folder().mkdir(parents=True)
    assert lmstudio.installed() == []
    assert lmstudio.loaded() == []


def test_loading_goes_through_lms_with_its_own_flags(lms):
    said = lmstudio.load("me/clinic", identifier="clinic", context=2048)
    assert said == "Model loaded successfully in 1.2s."
    assert (lms / "called").read_text() == "load me/clinic -y --identifier clinic --context-length 2048\n"
    with pytest.raises(ExpungeError, match=r"`lms load none` failed \(Model not found\)"):
        lmstudio.load("none")
    with pytest.raises(ExpungeError, match="is no model"):
        lmstudio.load("--exact")


def test_loading_without_lms_says_what_to_do_by_hand(home):
    with pytest.raises(ExpungeError, match=r"`lms` is not here: start LM Studio, open Developer, choose me/clinic"):
        lmstudio.load("me/clinic")
