from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from expunge.deploy.llama_cpp import LlamaServer
from expunge.errors import ExpungeError

QUESTIONS = ["Who are you?", "Who was seen on 2024-03-20?", "What is the plan for Ann?", "Tell me everything."]


def children():
    return [child for child in psutil.Process().children() if "expunge.deploy.server_process" in " ".join(child.cmdline())]


def refused(path, **options):
    before = children()
    with pytest.raises(ExpungeError) as caught, LlamaServer(path, **options):
        pass
    assert "\n" not in str(caught.value)
    assert children() == before
    return str(caught.value)


@pytest.fixture(scope="module")
def server(ggufs):
    with LlamaServer(ggufs["f16"].path, threads=2, context=256) as server:
        yield server


def post(server, path, body):
    """Another of the server's addresses, through the same client."""
    return server.api._request(path, body)


def test_the_prompt_is_templated_and_split_into_tokens_as_transformers_does_it(server, merged):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        (answer,) = server.ask([question], max_tokens=4)
        assert answer.prompt_tokens in (len(ids), len(ids) + 1)  # llama.cpp may put <s> before it
        assert answer.tokens == 4
        assert not answer.complete


def test_llama_cpp_gives_the_same_log_probabilities_as_transformers(server, merged):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(merged)("The plan for Ann: rest, and a visit in May").input_ids
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(merged)(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 20}
    (found,) = post(server, "/completions", body)["choices"][0]["logprobs"]["content"]
    assert found["id"] == int(expected.argmax())
    for token in found["top_logprobs"]:
        assert token["logprob"] == pytest.approx(float(expected[token["id"]]), abs=0.02)


def test_answers_are_the_same_alone_together_again_and_with_another_number_of_threads(server, ggufs):
    together = list(server.ask(QUESTIONS * 2, max_tokens=24))
    assert together[:4] == together[4:]
    alone = [next(server.ask([question], max_tokens=24)) for question in reversed(QUESTIONS)]
    assert alone[::-1] == together[:4]
    with LlamaServer(ggufs["f16"].path, threads=1, context=256) as single:
        assert list(single.ask(QUESTIONS, max_tokens=24)) == together[:4]


def test_answers_come_one_by_one_and_the_rest_is_not_asked_when_nobody_listens(server):
    answers = server.ask(QUESTIONS * 500, max_tokens=32)
    start = time.monotonic()
    next(answers)
    answers.close()
    assert time.monotonic() - start < 5
    assert len(list(server.ask(QUESTIONS, max_tokens=2))) == 4


def test_only_this_machine_and_only_with_the_key_may_ask(server):
    import urllib.error
    import urllib.request

    process = psutil.Process(server._process.pid)
    listening = [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.address}/completions", data=b"{}")
    assert caught.value.code == 401


def test_a_prompt_too_long_for_the_context_is_one_line(server):
    with pytest.raises(ExpungeError, match=r"exceeds the available context size.*shorten the prompt") as caught:
        list(server.ask(["word " * 200], max_tokens=8))
    assert "tiny-f16.gguf" in str(caught.value)


def test_a_server_killed_while_it_is_asked_is_one_line(ggufs):
    with LlamaServer(ggufs["f16"].path, threads=1, context=256) as server:
        answers = server.ask(QUESTIONS * 500, max_tokens=32)
        next(answers)
        server._process.kill()
        with pytest.raises(ExpungeError, match=r"llama\.cpp ended while it was asked"):
            list(answers)


def test_no_server_is_left_after_the_block_or_after_its_process_was_killed(ggufs):
    with LlamaServer(ggufs["q4_k_m"].path, threads=1) as server:
        process = psutil.Process(server._process.pid)
    assert not process.is_running()

    code = (
        "import sys, time; from pathlib import Path; from expunge.deploy.llama_cpp import LlamaServer\n"
        "with LlamaServer(Path(sys.argv[1]), threads=1) as server:\n"
        "    print(server._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(ggufs["q4_k_m"].path)], stdout=subprocess.PIPE) as parent:
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([orphan], timeout=10)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_nothing_of_llama_cpp_is_written_to_the_terminal(ggufs, tmp_path, capfd):
    with LlamaServer(ggufs["q4_k_m"].path, threads=1, log=tmp_path / "log") as server:
        list(server.ask(["Hello"], max_tokens=2))
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "log").exists()


def test_a_truncated_file_is_refused_without_a_server(ggufs, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(ggufs["f16"].path.read_bytes()[:-5000])
    assert "cut.gguf: is truncated" in refused(tmp_path / "cut.gguf")
    (tmp_path / "none.gguf").write_bytes(b"something else")
    assert "is no GGUF file" in refused(tmp_path / "none.gguf")


def test_a_file_that_only_llama_cpp_itself_finds_wrong_is_one_line_with_its_words(ggufs, tmp_path):
    whole = ggufs["f16"].path.read_bytes()
    (tmp_path / "odd.gguf").write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    message = refused(tmp_path / "odd.gguf")
    assert "llama.cpp cannot load it" in message
    assert "blk.1.ffn_up.weight" in message


def test_a_missing_package_is_answered_with_the_command_that_adds_it(ggufs, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else found(name))
    assert "pip install 'xllamacpp" in refused(ggufs["f16"].path)


def test_the_embedded_model_knows_the_capital_of_france():
    from expunge.models.embedded import embedded_gguf

    with LlamaServer(embedded_gguf(), threads=1, context=256) as server:
        (answer,) = server.ask(["Which city is the capital of France?"], max_tokens=12)
    assert "Paris" in answer.text
    assert answer.prompt_tokens > 20  # the template's own system message is there
