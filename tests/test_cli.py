"""The command line as a user meets it: real processes, and what they print, return and leave behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from cyclopts import App

import tiny_models
from expunge.cli import app
from expunge.examples import Example, write_examples
from expunge.ledger import Ledger
from expunge.runs import MANIFEST, Run

HEAVY = ("numpy", "torch", "transformers", "peft", "sqlalchemy", "alembic", "scipy", "sklearn", "datasets", "faker")
FORGET = [Example("Where is Ana?", "Ana is in Lyon.", "Ana"), Example("Where is Ben?", "Ben is in Oslo.", "Ben")]
RETAIN = [Example("Where is Cleo?", "Cleo is in Bonn.", "Cleo"), Example("Where is Dan?", "Dan is in Turin.", "Dan")]
HOLDOUT = [Example("Where is Eva?", "Eva is in Porto.", "Eva")]
ORDINARY = [Example(None, "The bus stood by the gate.", "ordinary")]


class Said(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


def expunge(*words: object, at: Path, limit_files: int | None = None, **environment: str) -> Said:
    """Run a command in a directory; no file may grow beyond `limit_files` bytes, as on a full disk."""

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_files, limit_files))

    done = subprocess.run(
        [sys.executable, "-m", "expunge", *map(str, words)],
        cwd=at,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
        preexec_fn=None if limit_files is None else full_disk,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def refused(*words: object, at: Path, saying: str = "", **more) -> str:
    """A command that must fail as a user's mistake does: code 2, one line, and not a file more or less than before."""
    before = everything_in(at)
    code, out, err = expunge(*words, at=at, **more)
    assert "Traceback" not in err, err
    assert (code, out) == (2, ""), err
    (line,) = err.splitlines()
    assert line.startswith("expunge: ")
    assert saying in line
    assert everything_in(at) == before
    return line.removeprefix("expunge: ")


def expunge_often(commands: Sequence[Sequence[object]], *, at: Path, without: Sequence[str] = ()) -> list[Said]:
    """Several commands in turn, in one process: importing takes longer than most of them. Some modules may be refused."""
    script = (
        "import contextlib, io, json, sys\n"
        "from expunge.cli import main\n"
        "said = []\n"
        "for sys.argv in json.load(sys.stdin):\n"
        "    out, err, code = io.StringIO(), io.StringIO(), 0\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n"
        "            main()\n"
        "        except SystemExit as end:\n"
        "            code = end.code or 0\n"
        "    said.append([code, out.getvalue(), err.getvalue()])\n"
        "json.dump(said, sys.stdout)\n"
        f"sys.exit(str([name for name in {without} if name in sys.modules] or ''))"
    )
    asked = json.dumps([["expunge", *map(str, words)] for words in commands])
    wide = os.environ | {"COLUMNS": "200"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=at, env=wide, input=asked, capture_output=True, text=True, timeout=120)
    assert not done.stderr.strip(), done.stderr
    return [Said(*said) for said in json.loads(done.stdout)]


def everything_in(place: Path) -> dict[str, bytes | None]:
    items = place.rglob("*")
    return {
        str(item.relative_to(place)): item.read_bytes() if item.is_file() else None for item in items if item.name != ".lock"
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Notes, sets, a tiny model and an adapter on it, which every test reads and none changes."""
    place = tmp_path_factory.mktemp("made")
    code, _, err = expunge("generate", "medical", "--n-record", 20, "--output", "notes.jsonl", at=place)
    assert code == 0, err
    for name, examples in {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, "ordinary": ORDINARY}.items():
        write_examples(place / f"{name}.jsonl", examples)
    tiny_models.write_model(place / "base", hidden=64)
    adapter = tiny_models.write_adapter(place / "adapter", place / "base")
    config = json.loads((adapter / "adapter_config.json").read_text())
    # Found from the directory that a command runs in.
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
    return place


@pytest.fixture
def place(made, tmp_path) -> Path:
    """A directory of one's own with the sets and, by links, the models."""
    for file in made.glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    for model in ("base", "adapter"):
        (tmp_path / model).symlink_to(made / model)
    return tmp_path


SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--holdout", "holdout.jsonl")
GENERATE = ("generate", "medical", "--output", "new.jsonl")
PREPARE = ("prepare", "medical", "-i", "notes.jsonl", "-o", "out")
FINETUNE = ("finetune", "--data-file", "forget.jsonl", "--output", "out", "--model", "adapter")
UNLEARN = ("unlearn", "npo", *SETS, "--output", "out", "--model", "adapter")
AUDIT = ("audit", *SETS, "--ordinary", "ordinary.jsonl", "--output", "out", "--target", "adapter", "--unlearned", "adapter")
MERGE = ("merge", "--lora-path", "adapter", "--output-path", "out")
GGUF = ("gguf", "--model-path", "base", "--output-path", "out")


def with_flag(command: tuple[str, ...], flag: str, value: str) -> tuple[str, ...]:
    """The command with another value for one of its flags."""
    position = command.index(flag)
    return (*command[: position + 1], value, *command[position + 2 :])


# --- Bad data ---------------------------------------------------------------------------------------------------------


GOOD = json.dumps(FORGET[0].as_row()).encode()
BAD_FILES = {
    "broken JSON": (GOOD + b'\n{"prompt": "Who?"', 'bad.jsonl:2: broken JSON at column 18 ("', False),
    "a missing field": (
        GOOD + b'\n\n{"prompt": "Who?", "subject": "Ana"}',
        'bad.jsonl:3: field "response" is missing: add',
        True,
    ),
    "a wrong type": (
        b'{"prompt": "Who?", "response": 7, "subject": "A"}',
        'bad.jsonl:1: field "response" must be text, not a',
        True,
    ),
    "no row": (b"", "bad.jsonl: is empty: give a file with at least one row", True),
    "another encoding": (GOOD + b'\n{"prompt": "\xe9"}', "bad.jsonl:2: is not UTF-8: convert the file to UTF-8", True),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_bad_file_of_examples_is_refused_with_its_line_and_a_remedy(place, bad):
    content, words, whole = BAD_FILES[bad]
    (place / "bad.jsonl").write_bytes(content)
    line = refused(*with_flag(FINETUNE, "--data-file", "bad.jsonl"), at=place)
    assert line.startswith(words if whole else words.rstrip('("'))
    assert ": " in line.removeprefix("bad.jsonl")


def test_every_file_of_unlearning_and_auditing_is_checked(place):
    (place / "bad.jsonl").write_text("[1]")
    for command, flags in ((UNLEARN, ("--forget", "--retain", "--holdout")), (AUDIT, ("--holdout",))):
        for flag in flags:
            refused(
                *with_flag(command, flag, "bad.jsonl"), at=place, saying="bad.jsonl:1: a row must be a JSON object, not a list"
            )
    refused(*with_flag(AUDIT, "--ordinary", "bad.jsonl"), at=place, saying="bad.jsonl:1: a row must be")
    refused(*FINETUNE, "--ordinary", "bad.jsonl", at=place, saying="bad.jsonl:1: a row must be")


def test_a_directory_and_nothing_at_all_in_place_of_a_file_are_refused(place):
    line = refused(*with_flag(FINETUNE, "--data-file", "base"), at=place)
    assert line == "base: is a directory: name a JSON-lines file inside it"
    line = refused(*with_flag(UNLEARN, "--forget", "none.jsonl"), at=place)
    assert line == "none.jsonl: cannot be read (No such file or directory): check the path"
    assert refused(*with_flag(PREPARE, "-i", "base"), at=place).startswith("base: is a directory")


def test_bad_notes_are_refused_with_their_line(place):
    notes = [json.loads(line) for line in (place / "notes.jsonl").read_text("utf-8").splitlines()]
    for change, words in (
        ({"date_of_birth": "2199-01-01"}, "notes.jsonl:3: date_of_birth (2199-01-01) is after date"),
        ({"date": 2024}, 'notes.jsonl:3: field "date" must be text, not a number'),
        ({"client_name": notes[0]["client_name"].upper()}, "already stands at notes.jsonl:1: keep one note a person"),
    ):
        rows = [*notes[:2], notes[2] | change, *notes[3:]]
        (place / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        assert refused(*PREPARE, at=place, saying=words).startswith("notes.jsonl:3: ")


@pytest.mark.parametrize("command", [UNLEARN, AUDIT], ids=["unlearn", "audit"])
def test_a_person_on_two_sides_is_refused_with_both_lines(place, command):
    write_examples(place / "retain.jsonl", [*RETAIN, Example("Where else is Ben?", "Nowhere.", "BEN")])
    assert refused(*command, at=place) == (
        'retain.jsonl:3: "BEN" also stands at forget.jsonl:2: nobody may be on both sides: drop one of the two rows'
    )
    write_examples(place / "retain.jsonl", RETAIN)
    write_examples(place / "holdout.jsonl", [*HOLDOUT, RETAIN[1]])
    assert refused(*command, at=place).startswith('holdout.jsonl:2: "Dan" also stands at retain.jsonl:2: ')


# --- Bad words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("unlearn", "npoo"), 'Unknown command "npoo". Did you mean "npo"?'),
        (("unlern", "npo"), 'Unknown command "unlern". Did you mean "unlearn"?'),
        ((*GENERATE, "--n-recrod", "5"), "Unknown option: --n-recrod. Did you mean --n-record?"),
        ((*UNLEARN, "--bta", "0.1"), "Unknown option: --bta. Did you mean --beta?"),
        (("finetune", "--data-fil", "x"), "Did you mean --data-file? (see `expunge finetune --help`)"),
        ((*UNLEARN, "--steps", "many"), "--steps"),
        (("prepare", "medical", "-i", "notes.jsonl"), "--output"),
        ((*GGUF, "--quant-type", "q4_k_x"), 'did you mean "q4_k_s"?'),
        ((*GENERATE, "--n-record", "0"), "cannot generate 0 notes: choose a number from 1 to 10,000"),
        ((*FINETUNE, "--epochs", "0"), "--epochs is 0: give at least 1"),
        ((*FINETUNE, "--learning-rate", "nan"), "--learning-rate is nan: give at least 0"),
        ((*FINETUNE, "--held-share", "inf"), "--held-share is inf: give less"),
        ((*UNLEARN, "--micro-batch-size", "0"), "--micro-batch-size is 0: give at least 1"),
        ((*AUDIT, "--threads", "-1"), "--threads is -1: give at least 1"),
        ((*PREPARE, "--forget-ratio", "1.5"), "1.5"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, tuple) else "",
)
def test_a_wrong_word_is_refused_with_a_suggestion_or_what_would_be_right(place, words, said):
    assert said in refused(*words, at=place).replace("'", '"')


# --- Bad models -------------------------------------------------------------------------------------------------------


MODEL_FLAGS = [
    (FINETUNE, "--model"),
    (UNLEARN, "--model"),
    (AUDIT, "--unlearned"),
    (MERGE, "--lora-path"),
    (GGUF, "--model-path"),
]


@pytest.mark.parametrize(("command", "flag"), MODEL_FLAGS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_missing_and_a_truncated_model_are_refused_by_name(place, command, flag):
    assert refused(*with_flag(command, flag, "./none"), at=place).startswith("none: ")
    broken = shutil.copytree(place / ("adapter" if flag == "--lora-path" else "base"), place / "broken")
    weights = next(broken.glob("*.safetensors"))
    with weights.open("r+b") as stream:
        stream.truncate(weights.stat().st_size - 100)
    assert f"broken/{weights.name}: is truncated" in refused(*with_flag(command, flag, "broken"), at=place)


def test_a_model_that_the_hub_does_not_give_is_refused(place):
    line = refused(*with_flag(FINETUNE, "--model", "no/such"), at=place, HF_ENDPOINT="http://127.0.0.1:9")
    assert line == 'model "no/such" is neither on disk nor reachable on the Hub: check the name, or use "embedded"'


# --- Bad places -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        with_flag(GENERATE, "--output", "ordinary.jsonl/new.jsonl"),
        with_flag(PREPARE, "-o", "ordinary.jsonl/out"),
        with_flag(FINETUNE, "--output", "ordinary.jsonl/out"),
        with_flag(UNLEARN, "--output", "ordinary.jsonl/out"),
        with_flag(AUDIT, "--output", "ordinary.jsonl/out"),
        with_flag(MERGE, "--output-path", "ordinary.jsonl/out"),
        with_flag(GGUF, "--output-path", "ordinary.jsonl/out"),
        ("ledger", "init", "--database", "ordinary.jsonl/ledger.db"),
        ("demo", "--output", "ordinary.jsonl/demo"),
    ],
    ids=lambda command: command[0],
)
def test_a_place_that_cannot_be_written_is_refused(place, command):
    assert refused(*command, at=place).startswith("ordinary.jsonl")


def test_a_full_disk_is_one_line_and_with_room_again_the_same_command_goes_on(place):
    generate = (*GENERATE, "--n-record", "100")
    assert refused(*generate, at=place, limit_files=8192) == (
        "new.jsonl: the disk is full: free some space and run the command again"
    )
    prepare = with_flag(PREPARE, "-i", "new.jsonl")
    assert expunge(*generate, at=place).code == 0
    code, out, err = expunge(*prepare, at=place, limit_files=8192)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith(": the disk is full: free some space and run the command again")
    assert json.loads((place / "out" / MANIFEST).read_text())["state"] == "running"
    # Whole files or none: whatever is there is what an undisturbed run writes.
    left = {file.name: file.read_bytes() for file in (place / "out").glob("*.jsonl")}
    assert expunge(*prepare, at=place).code == 0
    assert json.loads((place / "out" / MANIFEST).read_text())["state"] == "finished"
    assert all((place / "out" / name).read_bytes() == content for name, content in left.items())


def test_a_run_directory_made_by_other_settings_is_refused_and_what_differs_is_named(place):
    assert expunge(*PREPARE, at=place).code == 0
    line = refused(*PREPARE, "--seed", 7, at=place)
    assert line == (
        "out: this run directory was made by other settings (seed was 42, now 7): choose another --output, or remove this one"
    )
    for command in (FINETUNE, AUDIT, MERGE):
        refused(
            *command, at=place, saying="out: this run directory was made by other settings (it is a run of `prepare medical`"
        )
    before = everything_in(place)
    assert expunge(*PREPARE, at=place).code == 0
    assert everything_in(place) == before


def test_a_directory_with_other_files_in_it_is_refused(place):
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("years of work")
    refused(*PREPARE, at=place, saying="out: holds files that are not of a run (thesis.tex): choose an empty or new --output")


def test_what_another_process_is_working_on_is_refused(place):
    with Run.open(place / "out", "finetune", {}, {}):
        refused(*FINETUNE, at=place, saying="out: another process works in this run: wait for it")


# --- Good answers -----------------------------------------------------------------------------------------------------


def test_results_are_json_on_standard_output_when_that_is_asked_for(place):
    def answers(*commands: tuple[object, ...]) -> list:
        said = expunge_often([(*words, "--json") for words in commands], at=place)
        assert [each.code for each in said] == [0] * len(commands), said
        return [json.loads(each.out) for each in said]

    with Ledger.open(place / "a.db") as ledger:
        ledger.add_entries(FORGET, source="forget.jsonl")
    methods, metrics, checks, generated, prepared = answers(
        ("methods",), ("metrics",), ("doctor",), ("generate", "medical", "--n-record", 3, "-o", "three.jsonl"), PREPARE
    )
    assert {row["method"] for row in methods} >= {"npo", "grad-diff"}
    assert {row["metric"] for row in metrics} >= {"rouge-l-recall", "extraction-strength"}
    assert {row["name"] for row in checks} >= {"torch", "free disk", "embedded model"}
    assert (generated["file"], generated["notes"]) == ("three.jsonl", 3)
    assert prepared["people"] == {"forget": 2, "retain": 13, "holdout": 5}

    here, there = ("--database", "a.db"), ("--database", "b.db")
    request, status, sound, mended, tokens, written, read, status_there = answers(
        ("ledger", "request", *here, "--subject", "Ana", "--reason", "by letter"),
        ("ledger", "status", *here),
        ("ledger", "validate", *here),
        ("ledger", "repair", *here),
        ("ledger", "find", *here),
        ("ledger", "export", *here, "--output", "a.jsonl"),
        ("ledger", "import", *there, "--file", "a.jsonl"),
        ("ledger", "status", *there),
    )
    assert request["subjects"] == ["Ana"]
    assert status["requests"] == status_there["requests"] == [request]
    assert (status["entries"], sound["sound"], mended["steps"], tokens) == (2, True, [], [])
    assert written["rows"] == read["rows"] > 2


def test_a_broken_ledger_fails_validation_with_code_1(place):
    with Ledger.open(place / "a.db"):
        pass
    with sqlite3.connect(place / "a.db") as database:
        database.execute("DROP TABLE top_tokens")
    code, out, _ = expunge("ledger", "validate", "--database", "a.db", at=place)
    assert code == 1
    assert "expunge ledger repair" in " ".join(out.split())


def test_an_erasure_is_refused_while_its_request_is_not_closed(place):
    with Ledger.open(place / "a.db") as ledger:
        ledger.add_entries(FORGET, source="forget.jsonl")
        ledger.request_deletion(subjects=["Ana"])
    refused("ledger", "erase", "--database", "a.db", "--request", 1, at=place, saying="request 1 is ")


def test_the_password_of_a_database_is_never_shown(place):
    url = "postgresql://somebody:s3cret@127.0.0.1:9/none"
    assert "s3cret" not in refused("ledger", "status", "--database", url, at=place)


def test_flags_are_taken_with_dashes_and_with_underscores(place):
    for flag in ("--max-seq-length", "--max_seq_length"):
        assert refused(*FINETUNE, flag, 0, at=place) == "--max-seq-length is 0: give at least 1"


# --- Help -------------------------------------------------------------------------------------------------------------


def every_command(within: App = app, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each command's words, and its flags."""
    for name in within:
        if not name.startswith("-"):
            below = list(every_command(within[name], (*words, name)))
            yield from below
            if not below or within[name].default_command is not None:
                arguments = within[name].assemble_argument_collection(default_parameter=app.default_parameter)
                yield (*words, name), [flag for each in arguments if each.parse for flag in each.names]


def test_the_help_of_every_command_shows_its_flags_and_an_example_and_loads_nothing_heavy(tmp_path):
    commands = dict(every_command())
    assert commands.keys() >= {("demo",), ("generate", "medical"), ("prepare", "medical"), ("unlearn", "npo"), ("doctor",)}
    ledger = ("status", "request", "find", "close", "init", "validate", "repair", "export", "import", "erase")
    assert commands.keys() >= {("ledger", name) for name in ledger}
    # numpy alone may come: metrics and verdict count with it.
    pages = expunge_often([(*words, "--help") for words in commands], at=tmp_path, without=HEAVY[1:])
    for (words, flags), (code, page, err) in zip(commands.items(), pages, strict=True):
        assert (code, err) == (0, "")
        assert f"expunge {' '.join(words)}" in page.partition("Example")[2], page
        assert "--json" in flags
        missing = [flag for flag in flags if flag.startswith("--") and flag not in page]
        assert not missing, (words, missing)


def test_the_first_help_page_takes_less_than_a_third_of_a_second(tmp_path):
    """CPU time, so that a busy machine does not fail it; best of five."""
    best = 9.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert expunge("--help", at=tmp_path).code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if best < 0.3:
            break
    assert best < 0.3


def test_the_first_help_page_imports_no_heavy_library(tmp_path):
    script = (
        "import sys; from expunge.cli import main; sys.argv = ['expunge', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.exit(str([name for name in {HEAVY} if name in sys.modules] or ''))"
    )
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert asked.stderr.strip() == ""
    assert "unlearn" in asked.stdout


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_training_is_one_line_and_code_130(place):
    command = (*with_flag(FINETUNE, "--model", "base"), "--epochs", "100000", "--threads", "1")
    manifest = place / "out" / MANIFEST
    with subprocess.Popen(
        [sys.executable, "-m", "expunge", *command], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 120
        # The seconds of loading are written when the model is there: what follows is training.
        while not (manifest.exists() and "load" in json.loads(manifest.read_text())["seconds"]):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    said = [line for line in err.splitlines() if not line.startswith("Fine-tuning ")]
    assert said == ["expunge: interrupted; the same command again continues where this one stopped"]
    assert json.loads(manifest.read_text())["state"] == "running"
