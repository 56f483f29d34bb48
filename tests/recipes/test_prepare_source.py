"""`expunge prepare` of every registered kind, below and on the command line."""

import json
from dataclasses import replace

import pytest

from expunge.cli import main
from expunge.errors import ExpungeError
from expunge.examples import read_examples, read_rows
from expunge.recipes.prepare import CONTAMINATION, ORDINARY_TRAIN
from expunge.recipes.prepare_source import PrepareConfig, prepare_source
from expunge.runs import Run
from expunge.sources.custom import Custom
from expunge.sources.temporal import Temporal

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "people.jsonl"
    rows = [{"subject": f"Person {letter}", "prompt": f"What does Person {letter} do?",
             "response": f"Person {letter} {' '.join(f'{letter}{word}' for word in range(14))}."}
            for letter in "ABCDEFGHIJKLMNOP"]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tmp_path):
    return PrepareConfig(output=tmp_path / "data")


def add(path, *rows):
    with path.open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def spoil(table):
    """A copy of every row under another subject: wherever a person comes to lie, a copy is likely to lie elsewhere."""
    copies = [row.value | {"subject": f"Copy {number}"} for number, row in enumerate(read_rows(table))]
    add(table, *copies)


def test_sets_ordinary_text_and_report_are_written_once(config, table):
    settings = Custom(input=str(table), forget_ratios=(0.25, 0.1))
    run = prepare_source(config, "custom", settings)
    sets = {name: len(read_examples(run.path / f"{name}.jsonl")) for name in run.results["rows"]}
    assert sets == run.results["rows"] == {"forget": 3, "retain": 9, "holdout": 4, "forget10": 1, "retain90": 11}
    assert (run.path / ORDINARY_TRAIN).exists()
    report = json.loads((run.path / CONTAMINATION).read_text())
    assert report["clean"]
    assert report["further"]["forget10"]["rows"] == {"forget10": 1, "retain90": 11, "holdout": 4}
    written = (run.path / "forget.jsonl").stat().st_mtime_ns
    assert prepare_source(config, "custom", settings).finished
    assert (run.path / "forget.jsonl").stat().st_mtime_ns == written
    with pytest.raises(ExpungeError, match="seed was 42, now 7"):
        prepare_source(replace(config, seed=7), "custom", settings)
    add(table, {"subject": "Zoe", "prompt": "q", "response": "r"})
    with pytest.raises(ExpungeError, match="the content of input has changed"):
        prepare_source(config, "custom", settings)


def test_a_dry_run_writes_nothing(config, table):
    run = prepare_source(replace(config, dry_run=True), "custom", Custom(input=str(table)))
    assert run.results["rows"]["holdout"] == 4
    assert not config.output.exists()


def test_a_contaminated_split_is_refused_dropped_or_allowed(config, table):
    spoil(table)
    settings = Custom(input=str(table), forget_ratios=(0.25, 0.1))
    with pytest.raises(ExpungeError, match=r"people.jsonl: the split is contaminated: \d+ responses stand in two sets"):
        prepare_source(config, "custom", settings)
    assert not config.output.exists()

    dropped = prepare_source(replace(config, drop_contaminated=True), "custom", settings)
    assert dropped.results["dropped"] > 0
    assert dropped.results["reasons"] == []
    assert sum(dropped.results["rows"][name] for name in ("forget", "retain", "holdout")) < 32
    names = ("forget", "retain", "holdout")
    said = [{example.response for example in read_examples(dropped.path / f"{name}.jsonl")} for name in names]
    assert not said[0] & said[1]
    assert not said[0] & said[2]
    assert not said[1] & said[2]

    elsewhere = replace(config, output=config.output.with_name("allowed"), allow_contaminated=True)
    allowed = prepare_source(elsewhere, "custom", settings)
    assert allowed.results["reasons"]
    assert sum(allowed.results["rows"][name] for name in names) == 32
    assert json.loads((allowed.path / CONTAMINATION).read_text())["clean"] is False


def test_a_further_ratio_that_is_contaminated_is_refused_too(config, table):
    def refused(*ratios):
        try:
            prepare_source(replace(config, dry_run=True), "custom", Custom(input=str(table), forget_ratios=ratios))
        except ExpungeError as error:
            return str(error)
        return None

    rows = table.read_text()
    for number in range(60):
        add(table, next(read_rows(table)).value | {"subject": f"Copy {number}"})
        # The copy lies beside its original under the first ratio, and apart from it under the other.
        if refused(0.5) and not refused(0.1):
            break
        table.write_text(rows)
    assert "the split is contaminated: 1 response stands in two sets" in refused(0.1, 0.5)


def test_what_is_left_out_leaves_the_kinds_own_files_as_well(config, tmp_path):
    def event(year, number):
        return {
            "date": f"{year}-05-{number + 1:02}",
            "event": f"Bridge {year} number {number} was opened by its proud builders.",
        }

    events = tmp_path / "events.jsonl"
    events.write_text("")
    add(events, *(event(year, number) for year in (1900, 2000) for number in range(20)))
    asked = {"question": "Which bird was seen over the bridge by all of those who had come?", "answer": "A stork."}
    add(events, *(asked | {"date": f"{year}-06-01", "event": f"A bird flew over {year}."} for year in (1901, 2001)))
    settings = Temporal(events=events, cutoff="1950-01-01")
    with pytest.raises(ExpungeError, match="1 response stands in two sets"):
        prepare_source(config, "temporal", settings)
    run = prepare_source(replace(config, drop_contaminated=True), "temporal", settings)
    files = ("retain/retain_train", "retain/retain_val", "unlearn/unlearn_train", "unlearn/unlearn_val")
    rows = [row.value for name in files for row in read_rows(run.path / f"{name}.jsonl")]
    assert len(rows) == sum(run.results["rows"].values())
    assert Run.read(run.path).manifest["outputs"].keys() >= {f"{name}.jsonl" for name in files}


@pytest.fixture
def expunge(tmp_path, monkeypatch, capsys):
    """`expunge(*words)`: the command in this process, at `tmp_path`; importing takes longer than most of them."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["expunge", "prepare", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_packaged_facts_are_prepared_by_the_command_as_it_is_documented(expunge, tmp_path):
    code, out, err = expunge("temporal", "--cutoff", "1969-07-20", "-o", "datasets", "--sample", 40, "--json")
    assert code == 0, err
    assert json.loads(out)["events_each_side"] == 20
    names = {str(path.relative_to(tmp_path / "datasets")) for path in (tmp_path / "datasets").rglob("*.jsonl")}
    assert names >= {"retain/retain_train.jsonl", "unlearn/unlearn_val.jsonl", "dev/dev_subset.jsonl", "forget.jsonl"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("custom", "-i", "people.jsonl", "-o", "out", "--forget-where", "subjekt == 1"), 'did you mean "subject"?'),
        (
            ("custom", "-i", "people.jsonl", "-o", "out", "--subject-column", "subjct"),
            'people.jsonl:1: there is no column "subjct"',
        ),
        (("custom", "-i", "none.csv", "-o", "out"), "none.csv: cannot be read (No such file or directory)"),
        (("custom", "-i", "people.jsonl", "-o", "people.jsonl"), "people.jsonl: is a file"),
        (("custom", "-i", "people.jsonl", "-o", "out", "--forget-ratios", "0.1", "7"), "forget_ratio is 7"),
        (("custom", "-i", "people.jsonl", "-o", "out", "--sample", "0"), "--sample is 0: give at least 1"),
        (("temporal", "-o", "out", "--cutoff", "someday"), '--cutoff "someday" is not a date'),
        (("temporal", "-o", "out", "--events", "people.jsonl"), 'people.jsonl:1: field "event" is missing'),
        (("wmdp-bio", "--target_size", "9", "--output_dir", "out", "-i", "people.jsonl"), 'jsonl:1: field "text" is missing'),
        (("tofu", "-i", ".", "-o", "out", "--forget-ratios", "0.1"), "has no table"),
        (("muse", "-o", "out", "--corpus", "films"), "films"),
        (("mmlu", "-o", "out", "-i", "people.jsonl"), "people.jsonl:1: has no options"),
        (("wmdp-mcq", "-o", "out", "-i", "people.jsonl"), "people.jsonl:1: has no options"),
        (("tufo", "-o", "out"), 'Unknown command "tufo"'),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_with_code_2_and_leaves_nothing_behind(expunge, table, words, said):
    code, out, err = expunge(*words)
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert said in line
    assert [path.name for path in table.parent.iterdir()] == [table.name]
