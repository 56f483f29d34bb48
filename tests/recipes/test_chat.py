from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

import tiny_models
from expunge.deploy.api_server import ApiServer
from expunge.deploy.gguf import make_gguf
from expunge.deploy.llama_cpp import LlamaServer
from expunge.deploy.model_files import find_files
from expunge.deploy.model_pool import ModelPool
from expunge.errors import ExpungeError
from expunge.recipes.chat import ChatConfig, chat, read_prompts, typed

QUESTION = "Who was seen?"
SHORT = ChatConfig(max_tokens=8, threads=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("chat")
    tiny_models.write_model(place / "base", hidden=256, layers=1)
    tiny_models.write_adapter(place / "adapter", place / "base", scale=0.5)
    make_gguf(place / "base", place / "gguf", ["f16", "q8_0"], name="tiny")
    return place


def answers(*models, prompts=(QUESTION,), config=SHORT):
    return [exchange.answers for exchange in chat([str(model) for model in models], config, prompts)]


def test_a_directory_and_an_adapter_answer_side_by_side_and_otherwise(place):
    (said,) = answers(place / "base", place / "adapter")
    assert list(said) == [str(place / "base"), str(place / "adapter")]
    assert len({*said.values()}) == 2
    assert all(said.values())


def test_each_prompt_stands_alone(place):
    first, _, again = answers(place / "base", prompts=(QUESTION, "Another?", QUESTION))
    assert first == again


def test_a_file_and_the_server_that_serves_it_answer_alike(place):
    file = place / "gguf" / "tiny-f16.gguf"
    files, _ = find_files(place / "gguf")
    with ModelPool(files, threads=1) as pool, ApiServer(pool, port=0) as server:
        (said,) = answers(file, f"{server.url}#tiny-f16")
        with pytest.raises(ExpungeError, match=r"has several models \(tiny-f16, tiny-q8_0\): name one: .*#tiny-f16"):
            answers(server.url)
        with pytest.raises(ExpungeError, match='there is no model "none" here'):
            answers(f"{server.url}#none")
    with LlamaServer(file, threads=1) as alone:
        (expected,) = alone.ask([QUESTION], max_tokens=8)
    assert set(said.values()) == {expected.text.strip()}


def test_drawn_answers_depend_on_the_seed_alone(place):
    drawn = [
        answers(place / "base", config=ChatConfig(max_tokens=8, threads=1, temperature=1, seed=seed)) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (("base", "base"), "is named twice"),
        (("base", "./none"), "no such model"),
        (("base", "none.gguf"), "none.gguf: cannot be read"),
        (("adapter/adapter_config.json",), "is no GGUF file"),
        (("http://127.0.0.1:9/v1",), "cannot be asked"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(place, monkeypatch, models, words):
    monkeypatch.chdir(place)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ExpungeError) as caught:
        answers(*models)
    assert words in str(caught.value)


def test_prompts_come_from_standard_input_as_text_or_as_json(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO('One?\n\n{"prompt": "Two?", "response": "2"}\n'))
    assert list(read_prompts()) == ["One?", "Two?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO('One?\n{"prompt": '))
    with pytest.raises(ExpungeError, match="standard input:2: is neither"):
        list(read_prompts())


def test_a_terminal_is_shown_what_a_model_says_and_not_made_to_obey_it():
    from expunge.commands.show import printable

    assert printable("a\x1b[2Jb\x08\r\n\tü ▁�") == "a�[2Jb��\n\tü ▁�"


def test_typing_ends_with_the_input_or_by_a_word():
    lines = iter(["  One? ", "", "/quit", "Two?"])
    assert list(typed(lambda: next(lines))) == ["One?"]

    def ended():
        raise EOFError

    assert list(typed(ended)) == []


def test_the_command_prints_columns_or_json_and_takes_prompts_from_a_pipe(place):
    files = ["gguf/tiny-f16.gguf", "gguf/tiny-q8_0.gguf"]
    command = [sys.executable, "-m", "expunge", "chat", *files, "--max-tokens", "4", "--threads", "1"]
    run = {"cwd": place, "capture_output": True, "text": True, "env": os.environ | {"COLUMNS": "100"}}
    done = subprocess.run([*command, "--json"], input=f"{QUESTION}\nAnd?\n", **run)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert (first["prompt"], second["prompt"]) == (QUESTION, "And?")
    assert list(first["answers"]) == files
    done = subprocess.run([*command, "--prompt", QUESTION], **run)
    assert done.returncode == 0, done.stderr
    title, *table = done.stdout.splitlines()
    assert title.strip() == QUESTION
    assert any(all(file in line for file in files) for line in table)
