"""An evaluation of real files: behind a real llama.cpp server, as files, and as weights."""

from __future__ import annotations

import json

import pytest

from expunge.deploy.llama_cpp import LlamaServer
from expunge.errors import ExpungeError
from expunge.recipes.evaluate import ANSWERS, DIFFERENCES, EvaluateTemporalConfig, evaluate_temporal

QUESTIONS = ["Who won in 1900?", "Who won in 1950?", "Who won in 1980?", "Who won in 2020?"]


@pytest.fixture(scope="module")
def server(ggufs):
    with LlamaServer(ggufs["f16"].path, threads=1, context=256) as server:
        yield server


@pytest.fixture(scope="module")
def questions(server, tmp_path_factory):
    """Questions whose true answers are what the f16 file says to them."""
    path = tmp_path_factory.mktemp("tests") / "test.jsonl"
    rows = [
        {"prompt": question, "response": answer.text, "subject": question, "metadata": {"date": question[-5:-1]}}
        for question, answer in zip(QUESTIONS, server.ask(QUESTIONS, max_tokens=12), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_model(run, field):
    found = {}
    for line in (run.path / ANSWERS).read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["model"], []).append(row[field])
    return found


def test_what_a_file_says_it_says_over_the_api_too_and_weights_and_adapter_say_the_same(
    server, ggufs, merged, adapter, questions, tmp_path
):
    config = EvaluateTemporalConfig(
        use_lmstudio=True,
        lmstudio_url=server.address,
        api_key=server.key,
        compare=(str(ggufs["f16"].path), str(merged), str(adapter), str(ggufs["q4_k_m"].path)),
        base_model=str(ggufs["q8_0"].path),
        test_file=(questions,),
        max_tokens=12,
        output=tmp_path / "run",
        threads=1,
    )
    run = evaluate_temporal(config)
    found = by_model(run, "outcome")
    assert list(found) == ["served", "tiny-f16.gguf", str(merged), str(adapter), "tiny-q4_k_m.gguf", "base"]
    assert found["served"] == found["tiny-f16.gguf"] == ["correct"] * 4
    # Random weights say random bytes, which the two engines decode in different ways: HF is held against HF.
    said = by_model(run, "answer")
    assert said[str(merged)] == said[str(adapter)]
    assert len(set(said[str(merged)])) > 1
    shares = {each["name"]: each["value"] for each in run.results["shares"]["served"]}
    assert (shares["retain accuracy"], shares["leakage"]) == (1.0, 1.0)
    different = [json.loads(line) for line in (run.path / DIFFERENCES).read_text().splitlines()]
    assert len(different) == run.results["differences"]
    assert len(different) >= sum(each != "correct" for each in found["tiny-q4_k_m.gguf"]) > 0
    assert run.results["cut_off"]["served"] == 4


def test_a_question_longer_than_the_servers_context_is_named(server, questions, tmp_path):
    long = tmp_path / "long.jsonl"
    row = {"prompt": "Who? " * 100, "response": "x", "subject": "e", "metadata": {"date": "1900"}}
    long.write_text(json.dumps(row) + "\n")
    config = EvaluateTemporalConfig(
        use_lmstudio=True,
        lmstudio_url=server.address,
        api_key=server.key,
        test_file=(questions, long),
        max_tokens=12,
        output=tmp_path / "run",
    )
    ((why,),) = (each.values() for each in evaluate_temporal(config).results["unasked"].values())
    assert "context" in why


def test_a_file_that_is_no_gguf_is_refused_before_anything_is_written(questions, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ExpungeError, match=r"broken\.gguf"):
        evaluate_temporal(EvaluateTemporalConfig(model_path=broken, test_file=(questions,), output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
