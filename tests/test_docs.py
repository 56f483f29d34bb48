"""The documentation says what is true of the code beside it."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cyclopts import App, CycloptsError

from expunge.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


class Fence(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


class Span(NamedTuple):
    page: Path
    text: str


def fences(page: Path) -> list[Fence]:
    text = page.read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Fence(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def typed_commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of a code block, ready to be typed, and where it stands."""
    for fence in (fence for page in PAGES for fence in fences(page) if fence.language == "bash"):
        for line in fence.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["expunge"]:
                yield f"{fence.page.name}:{fence.line}: {' '.join(words[:3])}", words[1:]


def named_commands() -> Iterator[Span]:
    """Every `expunge …` in the running text, which need not be complete."""
    for page in PAGES:
        for text in re.findall(r"`(expunge [^`]+)`", prose(page)):
            yield Span(page, " ".join(text.split()))


def subcommands(command: App) -> list[str]:
    return [name for name in command if not name.startswith("-")]


def commands(command: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in subcommands(command):
        below = [*commands(command[name], (*path, name))]
        yield from below
        if not below or command[name].default_command is not None:
            yield (*path, name)


def flags(command: App) -> set[str]:
    # Flags of a command of several commands are those of any of them.
    if names := subcommands(command):
        own = _own_flags(command) if command.default_command is not None else set()
        return {"--help"}.union(own, *(flags(command[name]) for name in names))
    return _own_flags(command)


def _own_flags(command: App) -> set[str]:
    return {"--help"} | {name for argument in command.assemble_argument_collection() for name in argument.names}


def fault(text: str) -> str | None:
    """What is wrong with an `expunge …` of the running text, or None."""
    command, words = app, shlex.split(text)[1:]
    while words and not words[0].startswith("-") and subcommands(command):
        if words[0] not in subcommands(command):
            return f"there is no command {words[0]}"
        command, words = command[words[0]], words[1:]
    known = flags(command)
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0].replace("_", "-") not in known]
    return f"no flag {unknown[0]}" if unknown else None


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_generated_pages_are_what_the_docstrings_say_now():
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    for name, text in made.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text, f"docs/{name} is out of date: run `python docs/reference.py`"


@pytest.mark.parametrize(("where", "words"), [pytest.param(*found, id=found[0]) for found in typed_commands()])
def test_a_command_in_a_code_block_can_be_typed_as_it_stands(where, words):
    try:
        app.parse_args(words, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        pytest.fail(f"{where}: {error}")


def test_commands_and_flags_named_in_the_text_exist():
    faults = [f"{span.page.name}: `{span.text}`: {wrong}" for span in named_commands() if (wrong := fault(span.text))]
    assert not faults


def test_a_command_or_flag_that_does_not_exist_is_noticed():
    assert fault("expunge audit --strict") is None
    assert fault("expunge unlearn npo --beta 0.02 --max_seq_length 9") is None
    assert fault("expunge audit --lenient") == "no flag --lenient"
    assert fault("expunge ledger forgive") == "there is no command forgive"


def test_every_command_has_a_section_in_the_user_guide_and_an_example():
    guide = anchors(ROOT / "docs" / "user-guide.md")
    shown = [words for _, words in typed_commands()]
    for path in commands():
        section = "unlearn" if path[0] == "unlearn" else "-".join(path)
        assert section in guide, f"docs/user-guide.md has no section on `expunge {' '.join(path)}`"
        assert any(tuple(words[: len(path)]) == path for words in shown), f"no example of `expunge {' '.join(path)}`"


def test_flags_named_alone_in_the_readme_and_the_guide_exist():
    every = flags(app)
    for page in (ROOT / "README.md", ROOT / "docs" / "user-guide.md"):
        for flag in re.findall(r"`(--[\w.-]*\w)", prose(page)):
            negated = flag.replace("_", "-").replace("--no-", "--")
            rules = any(name.startswith(f"{flag}.") for name in every)
            assert negated in every or rules, f"{page.name}: no command has {flag}"


def test_links_to_files_and_headings_lead_somewhere():
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, heading = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            if not target.exists():
                broken.append(f"{page.name}: {link}")
            elif heading and heading not in anchors(target):
                broken.append(f"{page.name}: {link} (no such heading)")
    assert not broken


def test_the_examples_for_contributors_work(tmp_path):
    blocks = [fence.text for fence in fences(ROOT / "CONTRIBUTING.md") if fence.language == "python"]
    (tmp_path / "letters.jsonl").write_text('{"sender": "Ana Ruiz", "date": "2024-02-01", "body": "Thank you."}\n')
    files = [tmp_path / f"example_{number}.py" for number in range(len(blocks))]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(block)
    code = """
import json, pathlib
import example_0, example_1, example_2
from expunge.methods import METHODS
from expunge.metrics import METRICS
import numpy as np
import torch
from expunge.training.objective import Scores

log_p_BK = torch.tensor([[-1.0, -2.0, 0.0], [-9.0, -9.0, -9.0]], requires_grad=True)
labelled_BK = torch.tensor([[True, True, False], [True, True, True]])
side = Scores(log_p_BK, labelled_BK, None, 2, 5)
losses = METHODS["capped-ascent"].loss(example_0.CappedAscent(), side, side)
losses.forget.backward()
(letter,) = example_2.read_letters(pathlib.Path("letters.jsonl"))
runs = METRICS["longest-run"].measure([np.array([True, False, True, True]), np.array([False]), np.array([True])])
print(json.dumps([losses.forget.item(), log_p_BK.grad[1].tolist(), runs.tolist(), letter.prompt, letter.subject]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    forget, beyond_the_ceiling, runs, prompt, subject = json.loads(done.stdout)
    assert forget == pytest.approx((-1.5 - 4.0) / 2)
    assert beyond_the_ceiling == [0, 0, 0]
    assert runs == [0.5, 0, 1]
    assert (prompt, subject) == ("What did Ana Ruiz write on 2024-02-01?", "Ana Ruiz")
