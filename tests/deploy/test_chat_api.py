from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expunge.deploy.chat_api import ChatApi, is_loopback
from expunge.errors import ExpungeError

GOOD = {"choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


@pytest.fixture
def server(monkeypatch):
    """A server that answers with what the test puts into `replies`, in turn, and keeps what it was asked."""
    monkeypatch.setattr("expunge.deploy.chat_api.time.sleep", lambda seconds: server.waits.append(seconds))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, self.headers["Authorization"], asked))
            status, reply = server.replies.pop(0)
            if status is None:
                self.connection.close()
                return
            self.send_response(status)
            for header in server.headers.items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

        def do_GET(self):
            server.asked.append((self.path, self.headers["Authorization"], None))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(GOOD).encode())

        def log_message(self, *arguments): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.replies, server.asked, server.waits, server.headers = [], [], [], {}
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_question_is_sent_greedy_with_key_and_model(server):
    server.replies = [(200, GOOD)]
    answer = ChatApi(server.url, key="k", model="m").answer("Hi", max_tokens=5)
    assert answer == ("Hello.", 0, 3, True)
    ((path, key, body),) = server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer k")
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["cache_prompt"]) == ("m", 5, 0, False)


def test_a_server_that_is_full_or_breaks_off_is_asked_again_after_longer_and_longer_waits(server):
    server.replies = [(429, b""), (200, b'{"choices": [{"mess'), (None, b""), (200, GOOD)]
    assert ChatApi(server.url).answer("Hi", max_tokens=5).text == "Hello."
    assert server.waits == [0.5, 1, 2]


@pytest.mark.parametrize(("asked_for", "waited"), [("7", 7), ("100000", 60), ("soon", 0.5), ("0", 0.5)])
def test_a_full_server_is_given_the_time_it_asks_for_within_reason(server, asked_for, waited):
    server.replies, server.headers = [(429, b""), (200, GOOD)], {"Retry-After": asked_for}
    ChatApi(server.url).answer("Hi", max_tokens=5)
    assert server.waits == [waited]


WRITING = {"max_tokens": 5, "temperature": 0.5, "seed": 3}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_writing_asks_with_the_fields_that_every_server_knows(server):
    server.replies = [(200, GOOD), (200, GOOD)]
    api = ChatApi(server.url)
    api.write(MESSAGES, **WRITING)
    api.write(MESSAGES, **WRITING, schema={"type": "object"})
    plain, held = (body for *_, body in server.asked)
    assert plain == {"messages": MESSAGES, **WRITING}
    assert held["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_server_without_schemas_is_asked_for_json_from_then_on(server):
    server.replies = [(400, {"error": "no schemas"}), (200, GOOD), (200, GOOD)]
    api = ChatApi(server.url)
    for _ in range(2):
        assert api.write(MESSAGES, **WRITING, schema={}).text == "Hello."
    assert [body["response_format"]["type"] for *_, body in server.asked] == ["json_schema", "json_object", "json_object"]


def test_a_question_that_is_at_fault_itself_is_refused_in_the_servers_words_and_changes_nothing(server):
    server.replies = [(400, {"error": "too long"})] * 3 + [(200, GOOD)]
    api = ChatApi(server.url)
    with pytest.raises(ExpungeError, match="HTTP 400: too long"):
        api.write(MESSAGES, **WRITING, schema={})
    api.write(MESSAGES, **WRITING, schema={})
    assert server.asked[-1][-1]["response_format"]["type"] == "json_schema"


def test_a_server_that_repeats_the_key_does_not_get_it_into_the_message(server):
    server.replies = [(401, {"error": "wrong key: sk-4711"})]
    with pytest.raises(ExpungeError, match="wrong key: …"):
        ChatApi(server.url, key="sk-4711").answer("Hi", max_tokens=5)


def test_where_a_server_sends_us_on_to_is_not_told_the_key(server):
    server.replies, server.headers = [(302, b"")], {"Location": server.url.replace("127.0.0.1", "localhost") + "/elsewhere"}
    ChatApi(server.url, key="sk-4711").answer("Hi", max_tokens=5)
    assert [(path, key) for path, key, _ in server.asked] == [
        ("/v1/chat/completions", "Bearer sk-4711"),
        ("/v1/elsewhere", None),
    ]


def test_a_server_that_stays_broken_is_one_line_with_its_own_words(server):
    server.replies = [(500, {"error": {"message": "out of memory"}})] * 4
    with pytest.raises(ExpungeError, match="cannot be asked \\(HTTP 500: out of memory\\)"):
        ChatApi(server.url).answer("Hi", max_tokens=5)


def test_a_question_that_is_refused_is_not_asked_again(server):
    server.replies = [(404, {"error": "no such model"})]
    with pytest.raises(ExpungeError, match="HTTP 404: no such model"):
        ChatApi(server.url, model="x").answer("Hi", max_tokens=5)
    assert len(server.asked) == 1


@pytest.mark.parametrize("reply", [{}, [], {"choices": []}, {"choices": [{"message": None}]}, "words"])
def test_a_reply_without_an_answer_is_one_line(server, reply):
    server.replies = [(200, reply)]
    with pytest.raises(ExpungeError, match="gave no answer in its reply"):
        ChatApi(server.url).answer("Hi", max_tokens=5)


def test_a_server_that_is_down_is_one_line(server):
    server.server_close()
    with pytest.raises(ExpungeError, match="Connection refused"):
        ChatApi(server.url).answer("Hi", max_tokens=5)


def test_a_server_that_says_nothing_is_given_up_on_in_time():
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(ExpungeError, match="no answer within"):
            ChatApi(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.2).answer("Hi", max_tokens=5)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:1234", "http://", "http://[::1/v1"])
def test_what_is_no_http_address_is_refused(url):
    with pytest.raises(ExpungeError, match="is no http address"):
        ChatApi(url)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
    ],
)
def test_this_machine_is_told_from_all_others(host, is_here):
    assert is_loopback(host) is is_here
