from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from expunge.deploy.api_server import ApiServer
from expunge.deploy.chat_api import ChatApi
from expunge.deploy.llama_cpp import LlamaServer
from expunge.deploy.model_files import find_files
from expunge.deploy.model_pool import ModelPool
from expunge.errors import ExpungeError

QUESTION = "Who was seen on 2024-03-20?"
MESSAGES = [{"role": "user", "content": QUESTION}]
GREEDY = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def models(ggufs, tmp_path_factory):
    """A folder as LM Studio's: two files of one model, and one that somebody put at the top."""
    place = tmp_path_factory.mktemp("models")
    for kind, path in {"f16": "me/clinic-GGUF/clinic-f16", "q8_0": "me/clinic-GGUF/clinic-q8_0", "q4_k_m": "Other"}.items():
        target = place / f"{path}.gguf"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(ggufs[kind].path, target)
    (place / "me" / "clinic-GGUF" / "mmproj-f16.gguf").write_text("the eyes of a model")
    (place / "broken.gguf").write_bytes(ggufs["f16"].path.read_bytes()[:2000])
    return place


@pytest.fixture(scope="module")
def pool(models):
    files, broken = find_files(models)
    assert [error.where.name for error in broken] == ["broken.gguf"]
    with ModelPool(files, most=1, threads=1, context=256) as pool:
        yield pool


@pytest.fixture(scope="module")
def server(pool):
    with ApiServer(pool, port=0) as server:
        yield server


def send(server, method, path, body=None, headers=JSON):
    """One request, by hand: status and JSON."""
    connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=60)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, content, headers)
    reply = connection.getresponse()
    found = reply.status, json.loads(reply.read())
    connection.close()
    return found


def post(server, body, path="/v1/chat/completions", **headers):
    return send(server, "POST", path, body, JSON | {name.replace("_", "-"): value for name, value in headers.items()})


def refused(server, body, **more):
    status, reply = post(server, body, **more)
    return status, reply["error"]["message"]


def states(server):
    return {model["id"]: model["state"] for model in send(server, "GET", "/api/v0/models")[1]["data"]}


def test_models_are_listed_as_openai_and_as_lm_studio_list_them(server):
    status, listed = send(server, "GET", "/v1/models")
    assert (status, listed["object"]) == (200, "list")
    names = [model["id"] for model in listed["data"]]
    assert names == ["Other", "clinic-f16", "clinic-q8_0"]
    assert {model["owned_by"] for model in listed["data"]} == {"me", "expunge"}
    status, listed = send(server, "GET", "/api/v0/models")
    assert (status, listed["object"]) == (200, "list")
    entry = listed["data"][2]
    assert {name: entry[name] for name in entry if name != "state"} == {
        "id": "clinic-q8_0",
        "object": "model",
        "type": "llm",
        "publisher": "me",
        "arch": "llama",
        "compatibility_type": "gguf",
        "quantization": "Q8_0",
        "max_context_length": 512,
    }
    assert send(server, "GET", "/api/v0/models/clinic-q8_0") == (200, entry)


def test_a_model_is_loaded_when_it_is_asked_and_makes_room_for_the_next(server):
    for name in ("clinic-f16", "Other", "clinic-f16"):
        status, reply = post(server, GREEDY | {"model": name})
        assert (status, reply["model"]) == (200, name)
        assert states(server) == {each: "loaded" if each == name else "not-loaded" for each in states(server)}
    entry = send(server, "GET", "/api/v0/models/clinic-f16")[1]
    assert entry["loaded_context_length"] == 256


def test_it_answers_as_llama_cpp_alone_does(server, ggufs):
    with LlamaServer(ggufs["q8_0"].path, threads=1, context=256) as alone:
        (expected,) = alone.ask([QUESTION], max_tokens=12)
    said = ChatApi(server.url, model="clinic-q8_0").answer(QUESTION, max_tokens=12)
    assert (said.prompt_tokens, said.tokens, said.complete) == (expected.prompt_tokens, 12, False)
    assert said.text.strip() == expected.text.strip()


def test_many_at_once_are_answered_as_one_alone(server):
    api = ChatApi(server.url, model="clinic-q8_0")
    questions = [f"{QUESTION} {number}" for number in range(4)]
    alone = [api.answer(question, max_tokens=12) for question in questions]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda question: api.answer(question, max_tokens=12), questions * 2))
    assert together == alone * 2


def test_a_schema_is_kept_to_though_the_model_is_random(server):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "ill": {"type": "boolean"}},
        "required": ["age", "ill"],
        "additionalProperties": False,
    }
    said = ChatApi(server.url, model="clinic-q8_0").write(MESSAGES, max_tokens=200, temperature=1, seed=1, schema=schema)
    found = json.loads(said.text)
    assert set(found) == {"age", "ill"}
    assert 0 <= found["age"] <= 99


def test_a_streamed_answer_is_the_whole_one_in_parts(server):
    body = GREEDY | {"model": "clinic-q8_0"}
    whole = post(server, body)[1]["choices"][0]["message"]["content"]
    connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}), JSON)
    reply = connection.getresponse()
    assert reply.headers.get_content_type() == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in reply.read().decode().splitlines() if line]
    assert lines.pop() == "[DONE]"
    parts = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]]
    assert len(parts) > 5
    # Cut in the middle of a letter, llama.cpp streams the half letter or does not.
    assert "".join(parts).rstrip("�") == whole.rstrip("�")
    # The connection can be used again.
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 200


def test_lm_studios_own_interface_says_its_figures_beside_the_answer(server):
    status, reply = post(server, GREEDY | {"model": "clinic-q8_0"}, path="/api/v0/chat/completions")
    assert status == 200
    assert reply["stats"]["stop_reason"] == "maxPredictedTokensReached"
    assert reply["stats"]["tokens_per_second"] > 0
    assert reply["model_info"] == {"arch": "llama", "quant": "Q8_0", "format": "gguf", "context_length": 256}
    body = {"model": "clinic-q8_0", "prompt": "Ann was", "max_tokens": 3}
    status, reply = post(server, body, path="/api/v0/completions")
    assert (status, reply["usage"]["completion_tokens"]) == (200, 3)


def test_a_model_may_be_named_in_any_case_and_by_its_file(server):
    assert post(server, GREEDY | {"model": "other"})[1]["model"] == "Other"
    assert post(server, GREEDY | {"model": "OTHER.gguf"})[1]["model"] == "Other"


@pytest.mark.parametrize(
    "name", ["clinic", "../../etc/passwd", "/etc/passwd", "me/clinic-GGUF/clinic-f16", "broken", "x" * 9999]
)
def test_a_model_that_is_not_there_is_refused_with_what_is(server, name):
    status, words = refused(server, GREEDY | {"model": name})
    assert status == 404
    assert words.endswith("choose from Other, clinic-f16, clinic-q8_0")
    assert send(server, "GET", f"/api/v0/models/{name}")[0] == 404


def test_who_names_no_model_of_several_is_asked_which(server):
    for body in (GREEDY, GREEDY | {"model": ""}, GREEDY | {"model": 7}):
        assert refused(server, body) == (400, "say which model is asked: Other, clinic-f16, clinic-q8_0")


def test_a_question_beyond_the_context_is_refused_in_llama_cpps_words_and_is_one_line_to_the_user(server):
    long = "word " * 400
    status, words = refused(server, {"model": "Other", "messages": [{"role": "user", "content": long}]})
    assert status == 400
    assert "exceeds the available context size" in words
    with pytest.raises(ExpungeError, match=r"HTTP 400: .*exceeds the available context size"):
        ChatApi(server.url, model="Other").answer(long, max_tokens=5)


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b'{"messages": [', {}, 400, "no whole JSON"),
        (b"[1]", {}, 400, "must be a JSON object"),
        (b"[" * 100_000, {}, 400, "no whole JSON"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "Content-Type: application/json"),
        (b"{}", {"Content-Length": str(1 << 40)}, 413, "larger than 32 MiB"),
        (b"", {"Content-Length": "-1"}, 411, "Content-Length"),
        (b"{}", {"Host": "evil.example"}, 403, "localhost or 127.0.0.1 alone"),
        (b"{}", {"Host": "127.0.0.1.evil.example"}, 403, "localhost or 127.0.0.1 alone"),
        (b"{}", {"Host": "[::1"}, 403, "localhost or 127.0.0.1 alone"),
    ],
)
def test_what_is_no_question_is_refused_and_the_server_goes_on(server, body, headers, status, words):
    found, reply = send(server, "POST", "/v1/chat/completions", body, JSON | headers)
    assert found == status
    assert words in reply["error"]["message"]
    assert send(server, "GET", "/health") == (200, {"status": "ok"})


def test_there_is_nothing_elsewhere(server):
    assert send(server, "GET", "/v1/../../etc/passwd")[0] == 404
    assert send(server, "POST", "/v1/embeddings", {})[0] == 404
    # No page of a browser is given permission to read answers.
    connection = http.client.HTTPConnection(server.url.split("/")[2])
    connection.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://evil.example"})
    reply = connection.getresponse()
    assert reply.status == 501
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_with_a_key_nobody_without_it_may_ask(pool):
    with ApiServer(pool, port=0, key="sesame") as server:
        assert refused(server, GREEDY)[0] == 401
        assert send(server, "GET", "/v1/models")[0] == 401
        assert send(server, "GET", "/v1/models", headers={"Authorization": "Bearer sesame"})[0] == 200
        assert ChatApi(server.url, key="sesame", model="Other").answer(QUESTION, max_tokens=2).tokens == 2


def test_it_is_reached_from_this_machine_alone(server):
    ports = psutil.Process().net_connections("tcp")
    assert {each.laddr.ip for each in ports if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_port_that_is_taken_is_one_line(pool, server):
    taken = int(server.url.split(":")[2].split("/")[0])
    for port, words in ((taken, "Address already in use"), (70000, "port must be 0-65535")):
        with pytest.raises(ExpungeError, match=f"cannot listen there .*{words}"), ApiServer(pool, port=port):
            pass


def test_a_model_that_crashes_is_loaded_again_for_the_next_who_asks(pool, server):
    post(server, GREEDY | {"model": "Other"})
    pool._loaded["Other"].server._process.kill()
    pool._loaded["Other"].server._process.wait()
    assert states(server)["Other"] == "not-loaded"
    assert post(server, GREEDY | {"model": "Other"})[0] == 200


def test_a_model_that_crashes_while_it_is_asked_is_said_to_the_one_who_asked(pool, server):
    post(server, GREEDY | {"model": "Other"})
    process = pool._loaded["Other"].server._process
    # Stopped, it neither answers nor goes away.
    process.send_signal(19)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(post(server, GREEDY | {"model": "Other"})))
    asking.start()
    while not pool._loaded["Other"].asked:
        time.sleep(0.01)
    process.kill()
    asking.join(20)
    ((status, reply),) = answers
    assert status == 502
    assert "ended while it was asked" in reply["error"]["message"]


def test_who_went_away_while_waiting_is_not_answered_any_more(pool):
    with pytest.raises(ExpungeError, match="nobody waits"), pool.lease("Other", wanted=lambda: False):
        pass


def test_who_goes_away_frees_the_model_for_others(pool, server):
    post(server, GREEDY | {"model": "Other"})
    process = pool._loaded["Other"].server._process
    process.send_signal(19)
    host, port = server.url.split("/")[2].split(":")
    content = json.dumps(GREEDY | {"model": "Other"}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        while not pool._loaded["Other"].asked:
            time.sleep(0.01)
    # Given back while llama.cpp is still silent, not because it came to answer.
    give_up = time.monotonic() + 20
    while pool._loaded["Other"].asked and time.monotonic() < give_up:
        time.sleep(0.01)
    asked = pool._loaded["Other"].asked
    process.send_signal(18)
    assert asked == 0
    assert post(server, GREEDY | {"model": "Other"})[0] == 200


def test_a_folder_without_a_file_and_a_file_that_is_none_are_one_line(tmp_path, models):
    with pytest.raises(ExpungeError, match="holds no GGUF file: make one: expunge gguf"):
        find_files(tmp_path)
    with pytest.raises(ExpungeError, match=r"broken\.gguf: is truncated"):
        find_files(models / "broken.gguf")
    (tmp_path / "only.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExpungeError, match=r"only\.gguf: is truncated"):
        find_files(tmp_path)


def test_two_files_of_one_name_are_told_apart_by_their_folders(tmp_path, ggufs):
    for folder in ("a", "b", ".partial-c"):
        (tmp_path / folder).mkdir()
        os.link(ggufs["q4_k_m"].path, tmp_path / folder / "same.gguf")
    os.link(ggufs["q8_0"].path, tmp_path / "big-00001-of-00002.gguf")
    os.link(ggufs["q8_0"].path, tmp_path / "big-00002-of-00002.gguf")
    assert list(find_files(tmp_path)[0]) == ["a/same", "b/same", "big-00001-of-00002"]


def test_names_that_differ_in_case_alone_are_told_apart_and_a_file_that_went_away_is_still_listed(tmp_path, ggufs):
    for path in ("a/Same.gguf", "b/same.gguf"):
        (tmp_path / path).parent.mkdir()
        os.link(ggufs["q4_k_m"].path, tmp_path / path)
    files, _ = find_files(tmp_path)
    (tmp_path / "a" / "Same.gguf").unlink()
    with ModelPool(files) as pool, ApiServer(pool, port=0) as server:
        for name in ("Same", "same"):
            status, entry = send(server, "GET", f"/v1/models/{name}")
            assert (status, entry["id"]) == (200, name)
            assert entry["created"] == int(ggufs["q4_k_m"].path.stat().st_mtime)


def test_a_file_that_cannot_be_loaded_is_said_to_whoever_asks_for_it(tmp_path, ggufs):
    whole = ggufs["f16"].path.read_bytes()
    (tmp_path / "odd.gguf").write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    files, _ = find_files(tmp_path)
    with ModelPool(files, threads=1) as pool, ApiServer(pool, port=0) as server:
        for _ in range(2):
            status, words = refused(server, GREEDY)
            assert status == 503
            assert "odd llama.cpp cannot load it" in words
