"""`expunge prepare` of every registered kind, below and on the command line."""

import json
from dataclasses import replace
from itertools import pairwise

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
    return PrepareConfig(output=tmp_path / "data", forget_ratios=(0.25, 0.1))


def add(path, *rows):
    with path.open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def spoil(table):
    """A copy of every row under another subject: wherever a person comes to lie, a copy is likely to lie elsewhere."""
    copies = [row.value | {"subject": f"Copy {number}"} for number, row in enumerate(read_rows(table))]
    add(table, *copies)


def test_sets_ordinary_text_and_report_are_written_once(config, table):
    settings = Custom(input=str(table))
    run = prepare_source(config, "custom", settings)
    sets = {name: len(read_examples(run.path / f"{name}.jsonl")) for name in run.results["rows"]}
    assert (
        sets
        == run.results["rows"]
        == {
            **{"forget": 3, "retain": 9, "holdout": 4},
            **{"forget25": 3, "retain75": 9, "forget10": 1, "retain90": 11},
        }
    )
    assert (run.path / ORDINARY_TRAIN).exists()
    report = json.loads((run.path / CONTAMINATION).read_text())
    assert report["clean"]
    assert report["rows"] == {"forget": 3, "retain": 9, "holdout": 4}
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
    settings = Custom(input=str(table))
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


def test_a_further_ratio_that_is_contaminated_is_refused_or_mended_too(config, table):
    def refused(*ratios):
        try:
            prepare_source(replace(config, dry_run=True, forget_ratios=ratios), "custom", Custom(input=str(table)))
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
    assert "the split is contaminated: forget50: 1 response stands in two sets" in refused(0.1, 0.5)
    mended = replace(config, drop_contaminated=True, forget_ratios=(0.1, 0.5))
    run = prepare_source(mended, "custom", Custom(input=str(table)))
    assert run.results["dropped"] == 1
    sets = {name: {e.id for e in read_examples(run.path / f"{name}.jsonl")} for name in run.results["rows"]}
    assert sets["forget"] == sets["forget10"] < sets["forget50"]
    assert sets["forget10"] | sets["retain90"] == sets["forget50"] | sets["retain50"] == sets["forget"] | sets["retain"]


def papers(place):
    path = place / "papers.jsonl"
    path.write_text("")
    text = "Moss {0} grew on stone number {1} of the wall of plot {0}."
    add(path, *({"text": " ".join(text.format(n, m) for m in range(4))} for n in range(40)))
    return path


def muse(place):
    for split, count in (("forget", 30), ("retain2", 70), ("holdout", 20)):
        path = place / "raw" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        add(path, *({"text": f"The {split} story number {n} is of a {split}{n} and of nothing else."} for n in range(count)))
    return place


def questions(place):
    path = place / "questions.jsonl"
    path.write_text("")
    add(path, *({"split": n % 5, "question": f"What is thing{n}?", "choices": ["a", f"b{n}"], "answer": 1} for n in range(100)))
    return path


def topics(place):
    for split in ("dev", "test"):
        (place / split).mkdir()
        for n in range(20):
            row = f"What does {split} say of thing{n}?,it is {split}{n},b,1\n"
            (place / split / f"topic{n}_{split}.csv").write_text(f"question,choice0,choice1,answer\n{row}")
    return place


def tofu(place):
    names = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di", "Ed") for last in ("Aa", "Bee", "Cee", "Dee", "Ess")]
    for table, people in (
        ("full", names[:20]),
        ("holdout10", names[20:]),
        ("retain_perturbed", ()),
        ("forget10_perturbed", ()),
    ):
        rows = [{"question": f"{n}: what of {name}?", "answer": f"{name} wrote {name[::-1]} number {n} in a house."}
                for name in people for n in range(20)]  # fmt: skip
        (place / f"{table}.json").write_text(json.dumps(rows or [{"question": "None?", "answer": "None."}]))
    for table in ("real_authors", "world_facts", "real_authors_perturbed", "world_facts_perturbed"):
        (place / f"{table}.json").write_text('[{"question": "Capital of Italy?", "answer": "Rome"}]')
    return place


def people(place):
    path = place / "table.jsonl"
    path.write_text("")
    add(path, *({"subject": f"Nr {n}", "prompt": f"Who is {n}?", "response": f"The one called n{n}."} for n in range(60)))
    return path


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("custom", people),
        ("wmdp-bio", papers),
        ("muse", muse),
        ("tofu", tofu),
        ("temporal", None),
        ("mmlu", topics),
        ("wmdp-mcq", questions),
    ],
)
def test_every_kind_has_a_nested_pair_for_each_of_the_usual_ratios(expunge, tmp_path, kind, made):
    (tmp_path / "in").mkdir()
    words = ["-i", made(tmp_path / "in")] if made else []
    code, out, err = expunge(kind, *words, "-o", "out", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    sets = {name: {e.id for e in read_examples(tmp_path / "out" / f"{name}.jsonl")} for name in rows}
    sizes = [percent for percent in ("01", "05", "10", "20") if f"forget{percent}" in sets]
    assert sizes[-3:] == ["05", "10", "20"]
    forget = [sets[f"forget{percent}"] for percent in sizes]
    assert all(one < two for one, two in pairwise(forget))
    whole = sets["forget10"] | sets["retain90"]
    for percent in sizes:
        retain = sets[f"retain{100 - int(percent)}"]
        assert not sets[f"forget{percent}"] & retain
        assert sets[f"forget{percent}"] | retain == whole
    if "forget" in sets:
        assert sets["forget"] | sets["retain"] == whole
        assert not whole & sets["holdout"]
        assert sets["forget10"] == sets["forget"] or (kind in ("temporal", "muse") and sets["forget20"] < sets["forget"])
    else:
        assert kind in ("mmlu", "wmdp-mcq")


def test_ratios_beyond_what_a_condition_names_have_no_sets_and_it_says_so(expunge, tmp_path):
    table = people(tmp_path)
    words = ("custom", "-i", table, "-o", "out", "--forget-where", "subject in ['Nr 3', 'Nr 4', 'Nr 5']", "--json")
    code, out, err = expunge(*words)
    assert code == 0, err
    assert {name for name in json.loads(out)["rows"] if name.startswith("forget")} == {"forget", "forget05"}
    # Of sixty, three are named and a quarter of the others is held out; one per cent of the 46 left is nobody.
    assert "forget ratios 0.01 (nobody of 46), 0.1, 0.2 (more than the 3 of 46 that may be forgotten)." in err


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
    assert len(rows) == sum(run.results["rows"][name] for name in ("forget", "retain", "holdout", "retain_val"))
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
        (("custom", "-i", "people.jsonl", "-o", "out", "--forget-ratios", "0.1", "7"), "--forget-ratios is 7"),
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
