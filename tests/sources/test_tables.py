"""Tables of every format give the same rows; broken ones are refused with their place."""

import csv
import inspect
import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from expunge.errors import ExpungeError
from expunge.sources.tables import fingerprint_of, is_on_hub, read_table, rows_of

ROWS = [{"name": "Jane Roe", "note": 'She said "no", twice.\nThen yes.'}, {"name": "Zoë", "note": "—"}]


@pytest.fixture
def tables(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(lines)
    (tmp_path / "c.json").write_text(json.dumps(ROWS))
    with (tmp_path / "d.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, ("name", "note"))
        writer.writeheader()
        writer.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "e.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["a.jsonl", "b.json", "c.json", "d.csv", "e.parquet"])
def test_every_format_gives_the_same_rows(tables, name):
    assert [row.value for row in read_table(tables / name)] == ROWS


def test_a_table_of_a_directory_is_found_by_configuration_or_split(tables):
    assert [row.value for row in rows_of(str(tables), "d")] == ROWS
    (tables / "raw").mkdir()
    (tables / "a.jsonl").rename(tables / "raw" / "forget.jsonl")
    assert [row.path.name for row in rows_of(str(tables), "raw", "forget")] == ["forget.jsonl"] * 2
    assert [row.value for row in rows_of(str(tables / "raw"), None, "forget")] == ROWS
    with pytest.raises(ExpungeError, match="has no table nothing"):
        list(rows_of(str(tables), "nothing"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"name,note\nJane\n", "x.csv:2: has fewer cells than the header"),
        ("x.csv", b"name,note\na,b\nJane,a,b\n", "x.csv:3: has more cells than the header"),
        ("x.csv", b"name,note\nRen\xe9,a\n", "x.csv: is not UTF-8"),
        ("x.csv", b"name,note\n", "x.csv: is empty"),
        ("x.csv", b'name,note\n"Jane"x,a\n', "x.csv:2: broken CSV"),
        ("x.json", b'[{"a": 1}, 2]', "x.json: item 2 is no JSON object"),
        ("x.json", b'[{"a": 1}', "x.json: broken JSON"),
        ("x.json", b"[]", "x.json: is empty"),
        ("x.jsonl", b'{"a": 1}\n{"a"', "x.jsonl:2: broken JSON"),
        ("x.parquet", b"PAR1 but not really", "x.parquet: is no sound Parquet file"),
        ("x.xlsx", b"", "x.xlsx: is of no known format: give a file that ends in .jsonl, .json, .csv, .parquet"),
    ],
)
def test_a_broken_table_is_refused_with_its_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExpungeError) as caught:
        list(read_table(tmp_path / name))
    assert said in str(caught.value)


def test_a_fingerprint_changes_with_the_content_and_not_with_the_place(tables, tmp_path_factory):
    before = fingerprint_of(str(tables))
    moved = tables.rename(tmp_path_factory.mktemp("elsewhere") / "t")
    assert fingerprint_of(str(moved)) == before
    (moved / "a.jsonl").write_text('{"name": "Eve"}\n')
    assert fingerprint_of(str(moved)) != before
    with pytest.raises(ExpungeError, match=r"cannot be read .* give a Hub id such as owner/name"):
        fingerprint_of("nothing.csv")


def test_what_is_on_the_disk_is_never_looked_for_on_the_hub(tables, monkeypatch):
    monkeypatch.chdir(tables)
    assert is_on_hub("locuslab/TOFU")
    assert not is_on_hub("data/notes.csv")
    assert not is_on_hub("a.jsonl")
    (tables / "locuslab" / "TOFU").mkdir(parents=True)
    assert not is_on_hub("locuslab/TOFU")


def test_a_hub_that_cannot_be_reached_is_one_line_with_a_remedy():
    script = "from expunge.sources.tables import rows_of; list(rows_of('no/such', 'forget10'))"
    surroundings = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    asked = subprocess.run([sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, timeout=60)
    said = asked.stderr.splitlines()[-1]
    assert 'data set "no/such" is neither on disk nor reachable on the Hub' in said
    assert said.endswith("check the name and the network, or give a local copy")


def test_a_data_set_of_the_hub_is_streamed_at_the_commit_it_stands_for(tables, monkeypatch):
    """The library streams a local file here; that it is asked in the words it knows is checked against its signature."""
    import datasets

    real, asked = datasets.load_dataset, []

    def load(*args, **named):
        asked.append(inspect.signature(real).bind(*args, **named).arguments)
        return real("json", data_files=str(tables / "a.jsonl"), split="train", streaming=named["streaming"])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("expunge.sources.tables._commit", lambda name: "abc123")
    rows = list(rows_of("owner/name", "config", "test"))
    assert [row.value for row in rows] == ROWS
    assert str(rows[1].error("is wrong")) == "owner/name/config/test:2: is wrong"
    known = {"path": "owner/name", "name": "config", "split": "test", "revision": "abc123", "streaming": True}
    assert asked == [known]
    assert fingerprint_of("owner/name") == "owner/name@abc123"


def test_what_the_library_says_of_a_wrong_split_is_passed_on(monkeypatch):
    def load(*_, **__):
        raise ValueError("Unknown split \"tset\". Should be one of ['test'].\nMore words.")

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("expunge.sources.tables._commit", lambda name: "abc123")
    with pytest.raises(
        ExpungeError, match=r"owner/name/tset: cannot be read from the Hub \(Unknown split .* check configuration"
    ):
        list(rows_of("owner/name", None, "tset"))
