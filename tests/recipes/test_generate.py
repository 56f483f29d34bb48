"""`expunge generate medical`, below the command line."""

import json

import pytest

from expunge.errors import ExpungeError
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.sources.medical import read_notes


def test_the_file_holds_as_many_readable_notes_as_were_asked_for(tmp_path):
    path = generate_medical(GenerateMedicalConfig(output=tmp_path / "deep" / "notes.jsonl", n_record=25, seed=3)).file
    assert len(read_notes(path)) == 25
    first = json.loads(path.read_text("utf-8").splitlines()[0])
    assert list(first) == ["client_name", "date_of_birth", "date", "subjective", "objective", "assessment", "plan"]


def test_one_seed_gives_the_same_bytes_and_a_longer_file_begins_with_the_shorter(tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, count in zip(files, (20, 20, 50), strict=True):
        generate_medical(GenerateMedicalConfig(output=path, n_record=count))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[2].read_bytes().startswith(files[0].read_bytes())


def test_the_very_same_file_is_left_alone_and_another_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "notes.jsonl"
    generate_medical(GenerateMedicalConfig(output=path, n_record=5))
    made = path.stat()
    generate_medical(GenerateMedicalConfig(output=path, n_record=5))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)

    before = path.read_bytes()
    with pytest.raises(ExpungeError, match=r"notes.jsonl: holds something else: .*--overwrite"):
        generate_medical(GenerateMedicalConfig(output=path, n_record=6))
    assert path.read_bytes() == before
    generate_medical(GenerateMedicalConfig(output=path, n_record=6, overwrite=True))
    assert len(read_notes(path)) == 6
    assert [item.name for item in tmp_path.iterdir()] == ["notes.jsonl"]


def test_a_dry_run_shows_the_first_notes_and_writes_nothing(tmp_path):
    found = generate_medical(GenerateMedicalConfig(output=tmp_path / "notes.jsonl", dry_run=True))
    rows = [json.loads(line) for line in found.sample.splitlines()]
    assert len(rows) == 5
    assert all(row["plan"] for row in rows)
    assert found.notes == 0
    assert not list(tmp_path.iterdir())


def test_a_directory_a_file_in_the_way_and_a_bad_number_are_refused(tmp_path):
    with pytest.raises(ExpungeError, match="is a directory"):
        generate_medical(GenerateMedicalConfig(output=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpungeError, match="cannot write here"):
        generate_medical(GenerateMedicalConfig(output=tmp_path / "file" / "notes.jsonl"))
    with pytest.raises(ExpungeError, match="cannot generate 0 notes"):
        generate_medical(GenerateMedicalConfig(output=tmp_path / "notes.jsonl", n_record=0))
