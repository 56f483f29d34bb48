"""Questions made by a model behind a real HTTP server, which here is told what to say."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expunge.errors import ExpungeError
from expunge.examples import read_examples
from expunge.recipes.prepare_source import PrepareConfig, prepare_source
from expunge.sources.temporal import Temporal


@pytest.fixture
def server():
    """`server.answer(event words, how many were asked before)` → what the model says, or a status code."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            words = body["messages"][-1]["content"].split("Event: ")[1].split("\n")[0]
            said = server.answer(words, len(server.asked))
            server.asked.append(words)
            self.send_response(said if isinstance(said, int) else 200)
            self.end_headers()
            if not isinstance(said, int):
                self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []

    def answer(words, _):
        question = f"What was done to {words.split(' was')[0]} on that day?"
        return json.dumps({"questions": [{"question": question, "answer": "opened"}]})

    server.answer = answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(server, tmp_path):
    events = tmp_path / "events.jsonl"
    rows = [
        {"date": f"{year}-05-{day + 1:02}", "event": f"Bridge {year}-{day} was opened."}
        for year in (1900, 2000)
        for day in range(12)
    ]
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Temporal(
        events=events,
        engine="openai",
        model="any",
        base_url=f"http://127.0.0.1:{server.server_port}/v1",
        api_key="s3cret",
        questions_per_event=1,
        concurrency=3,
    )


@pytest.fixture
def config(tmp_path):
    return PrepareConfig(output=tmp_path / "data")


def test_questions_come_from_the_model_and_the_key_is_nowhere_on_disk(server, settings, config, tmp_path):
    run = prepare_source(config, "temporal", settings)
    assert run.results["events_asked_by_template"] == 0
    assert len(server.asked) == 24
    assert all(example.prompt.startswith("What was done to Bridge") for example in read_examples(run.path / "forget.jsonl"))
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "events.jsonl"]


def test_a_model_that_fails_on_one_event_is_asked_again_and_then_templates_do(server, settings, config):
    good = server.answer
    server.answer = lambda words, before: "no" if "1900-3" in words else good(words, before)
    run = prepare_source(config, "temporal", settings)
    assert run.results["events_asked_by_template"] == 1
    assert server.asked.count("Bridge 1900-3 was opened.") == 3


def test_a_run_that_broke_off_asks_only_for_what_is_missing(server, settings, config):
    good = server.answer
    server.answer = lambda words, before: good(words, before) if before < 9 else 401
    with pytest.raises(ExpungeError, match="cannot be asked"):
        prepare_source(config, "temporal", settings)
    assert not config.output.exists()
    server.answer = good
    before = len(server.asked)
    assert prepare_source(config, "temporal", settings).finished
    assert len(server.asked) - before <= 24 - 9 + 3


def test_a_model_that_makes_nothing_good_is_given_up(server, settings, config):
    server.answer = lambda *_: "no"
    with pytest.raises(ExpungeError, match="made no good question about 10 events"):
        prepare_source(config, "temporal", settings)


def test_a_dry_run_asks_no_model(server, settings, config):
    prepare_source(replace(config, dry_run=True), "temporal", settings)
    assert not server.asked
