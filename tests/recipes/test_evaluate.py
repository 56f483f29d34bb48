"""An evaluation against a cutoff, over a real HTTP server that is told what to say and how to fail."""

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expunge.errors import ExpungeError
from expunge.recipes.evaluate import ANSWERS, EVALUATION, PLOT, EvaluateTemporalConfig, evaluate_temporal
from expunge.recipes.prepare_source import PrepareConfig, prepare_source
from expunge.sources.temporal import Temporal

RIGHT = {
    "Who won in 1900?": "Ana Berg won.",
    "Who won in 1901?": "Ben Cole",
    "Who won in 1902?": "I don't know.",
    "Who won in 2000?": "I have no information on that.",
    "Who won in 2001?": "Sorry, I know nothing about that.",
    "Who won in 2002?": "Finn Gray.",
}
WINNERS = dict(zip(RIGHT, ("Ana Berg", "Ben Cole", "Cleo Dahl", "Dan Eck", "Eva Falk", "Finn Gray"), strict=True))


@pytest.fixture
def server(monkeypatch):
    """`server.reply(question, how often it was asked)` → text, or (status, bytes)."""
    monkeypatch.setattr("expunge.deploy.chat_api.time.sleep", lambda seconds: server.waits.append(seconds))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, json.dumps({"data": [{"id": name} for name in server.models]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            server.asked.append(question)
            server.bodies.append(body)
            said = server.reply(question, server.asked.count(question))
            if isinstance(said, str):
                said = (200, json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}).encode())
            self._send(*said)

        def _send(self, status, content):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.models, server.asked, server.bodies, server.waits = ["tiny"], [], [], []
    server.reply = lambda question, _: RIGHT[question]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(server, tmp_path):
    tests = tmp_path / "test.jsonl"
    tests.write_text("".join(json.dumps(row(question, answer)) + "\n" for question, answer in WINNERS.items()))
    return EvaluateTemporalConfig(
        use_lmstudio=True,
        lmstudio_url=f"http://127.0.0.1:{server.server_port}/v1",
        test_file=(tests,),
        output=tmp_path / "run",
        concurrency=2,
        timeout=5,
    )


def row(question, answer, **known):
    year = question.split()[-1][:4]
    side = "retain" if int(year) < 1969 else "unlearn"
    known = {"date": f"{year}-05-01", "dataset_type": side, "event_id": year} | known
    return {"instruction": question, "output": answer, "metadata": known}


def shares(run):
    (found,) = run.results["shares"].values()
    return {each["name"]: round(each["value"], 3) for each in found}


def test_every_answer_is_judged_by_its_side_and_the_report_says_so(config, server):
    run = evaluate_temporal(config)
    assert shares(run) == {
        "retain accuracy": round(2 / 3, 3),
        "false refusal": round(1 / 3, 3),
        "unlearn success": round(2 / 3, 3),
        "leakage": round(1 / 3, 3),
        "temporal accuracy": round(4 / 6, 3),
    }
    kept = [json.loads(line) for line in (run.path / ANSWERS).read_text().splitlines()]
    assert [each["outcome"] for each in kept] == ["correct", "correct", "refused", "refused", "refused", "correct"]
    assert json.loads((run.path / EVALUATION).read_text())["cutoff"] == "1969-07-20"
    assert "Declined" in (run.path / PLOT).read_text()
    assert {body["max_tokens"] for body in server.bodies} == {256}
    assert {body["model"] for body in server.bodies} == {"tiny"}


def test_a_finished_evaluation_answers_at_once(config, server):
    evaluate_temporal(config)
    before = len(server.asked)
    assert evaluate_temporal(config).finished
    assert len(server.asked) == before


def test_a_server_that_is_full_broken_or_answers_in_halves_is_asked_again_after_longer_and_longer_waits(config, server):
    trouble = {
        "Who won in 1900?": (429, b"{}"),
        "Who won in 1901?": (500, b"{}"),
        "Who won in 1902?": (200, b'{"choices": [{"mess'),
    }
    server.reply = lambda question, times: trouble[question] if question in trouble and times < 3 else RIGHT[question]
    run = evaluate_temporal(config)
    assert shares(run)["retain accuracy"] == round(2 / 3, 3)
    assert sorted(server.waits) == [0.5] * 3 + [1.0] * 3


def test_a_server_that_goes_down_loses_nothing_and_the_same_command_asks_for_the_rest(config, server):
    server.reply = lambda question, _: RIGHT[question] if question < "Who won in 2000?" else (503, b'{"error": "down"}')
    with pytest.raises(ExpungeError, match=r"HTTP 503: down.*the same command then asks only what is missing"):
        evaluate_temporal(config)
    server.asked.clear()
    server.reply = lambda question, _: RIGHT[question]
    run = evaluate_temporal(config)
    assert sorted(server.asked) == [question for question in RIGHT if question >= "Who won in 2000?"]
    assert shares(run)["temporal accuracy"] == round(4 / 6, 3)


def test_an_answer_that_was_on_its_way_when_another_failed_is_kept(config, server):
    def reply(question, _):
        if question == "Who won in 1900?":
            time.sleep(0.3)  # while the next one fails
            return RIGHT[question]
        return (401, b'{"error": "no key"}')

    server.reply = reply
    with pytest.raises(ExpungeError, match="HTTP 401: no key"):
        evaluate_temporal(config)
    server.asked.clear()
    server.reply = lambda question, _: RIGHT[question]
    evaluate_temporal(config)
    assert "Who won in 1900?" not in server.asked


def test_a_slow_server_is_asked_again(config, server):
    def reply(question, times):
        if question == "Who won in 2000?" and times == 1:
            threading.Event().wait(0.6)
        return RIGHT[question]

    server.reply = reply
    run = evaluate_temporal(replace(config, timeout=0.3))
    assert shares(run)["temporal accuracy"] == round(4 / 6, 3)
    assert server.asked.count("Who won in 2000?") == 2


def test_a_model_that_the_server_does_not_have_is_refused_before_any_question(config, server):
    with pytest.raises(ExpungeError, match=r'has no model called "tinny": did you mean "tiny"\?'):
        evaluate_temporal(replace(config, lmstudio_model="tinny"))
    server.models = ["tiny", "large"]
    with pytest.raises(ExpungeError, match="has 2 models: give --lmstudio-model: tiny, large"):
        evaluate_temporal(config)
    assert not server.asked
    assert not config.output.exists()


def test_a_question_that_does_not_fit_the_context_is_named_and_the_others_are_judged(config, server):
    too_long = (400, b'{"error": {"message": "the request exceeds the available context size"}}')
    server.reply = lambda question, _: too_long if question == "Who won in 1900?" else RIGHT[question]
    run = evaluate_temporal(config)
    ((prompt, why),) = run.results["unasked"]["served"].items()
    assert prompt == "Who won in 1900?"
    assert "context size" in why
    assert shares(run)["retain accuracy"] == 0.5


def test_a_server_that_is_down_is_one_line(config, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ExpungeError, match="cannot be asked"):
        evaluate_temporal(config)
    assert not config.output.exists()


def test_a_judge_has_the_last_word_but_nonsense_is_not_listened_to(config, server):
    def reply(question, _):
        if not question.startswith("Question: "):
            return RIGHT[question]
        if "2002" in question:
            return '{"verdict": "wrong"}'
        return "Well, it depends."

    server.reply = reply
    run = evaluate_temporal(replace(config, judge_url=config.lmstudio_url, judge_model="tiny"))
    assert shares(run)["leakage"] == 0
    assert run.results["judge_against_rules"] == 1
    last = json.loads((run.path / ANSWERS).read_text().splitlines()[-1])
    assert (last["outcome"], last["rules"]) == ("wrong", "correct")


def test_a_judge_that_was_named_later_is_not_taken_for_one_that_has_judged(config):
    evaluate_temporal(config)
    with pytest.raises(ExpungeError, match="judge_url"):
        evaluate_temporal(replace(config, judge_url=config.lmstudio_url))


def test_a_model_that_is_called_base_is_judged_like_any_other(config, server):
    server.models = ["base"]
    run = evaluate_temporal(replace(config, lmstudio_model="base"))
    assert list(run.results["shares"]) == ["served"]
    assert shares(run)["retain accuracy"] == round(2 / 3, 3)


@pytest.mark.parametrize("aliases", [["A. B.", "Ana"], "Ana"])
def test_an_alias_counts_given_alone_or_in_a_list(config, server, aliases):
    (tests,) = config.test_file
    tests.write_text(json.dumps(row("Who won in 1900?", "Ana Berg", aliases=aliases)))
    server.reply = lambda *_: "Ana."
    assert shares(evaluate_temporal(config))["retain accuracy"] == 1


@pytest.mark.parametrize("aliases", [["Ana", ""], [7], {"Ana": 1}, 7])
def test_aliases_that_are_no_texts_are_refused_with_their_place(config, server, aliases):
    (tests,) = config.test_file
    tests.write_text(json.dumps(row("Who won in 1900?", "Ana Berg", aliases=aliases)))
    with pytest.raises(ExpungeError, match=r"test.jsonl:1: \"aliases\" \(.*\) is not a list of texts: write"):
        evaluate_temporal(config)
    assert not server.asked


@pytest.mark.parametrize("year", [1900, 2000])
def test_aliases_travel_from_a_table_of_events_to_the_judgement_on_either_side(config, server, tmp_path, year):
    rows = [
        {"date": f"{century + index}-05-01", "event": f"Contest {century + index}."}
        | {"question": f"Which team won cup {index} of {century}?", "answer": "Berg United", "aliases": ["BU", "the Blues"]}
        for century in (1900, 2000)
        for index in range(4)
    ]
    table = tmp_path / "events.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = tmp_path / "data"
    prepare_source(PrepareConfig(output=data), "temporal", Temporal(events=table, dated=1, val_ratio=0.5))
    server.reply = lambda question, _: "It was the Blues." if str(year // 100) in question else "The Reds."
    tests = tuple(data / "test" / f"{name}.jsonl" for name in ("untrained", "unlearn"))
    run = evaluate_temporal(replace(config, test_file=tests))
    assert shares(run)["retain accuracy"] == (year == 1900)
    assert shares(run)["leakage"] == (year == 2000)
    kept = [json.loads(line) for line in (run.path / ANSWERS).read_text().splitlines()]
    assert all(each["aliases"] == ["BU", "the Blues"] for each in kept)


def test_a_judge_is_told_the_aliases_and_asked_again_when_they_have_changed(config, server):
    (tests,) = config.test_file
    server.reply = lambda question, _: '{"verdict": "wrong"}' if question.startswith("Question: ") else "Ana."
    judged = replace(config, judge_url=config.lmstudio_url, judge_model="tiny")
    for aliases, true in ((["A. B."], "Ana Berg; or: A. B."), ([], "Ana Berg")):
        tests.write_text(json.dumps(row("Who won in 1900?", "Ana Berg", aliases=aliases)))
        evaluate_temporal(judged)
        assert server.asked[-1] == f"Question: Who won in 1900?\nTrue answer: {true}\nAnswer given: Ana."
        shutil.move(judged.output, judged.output.with_name("moved"))


def test_the_limit_takes_the_first_of_each_file(config, server):
    evaluate_temporal(replace(config, limit=2))
    assert sorted(server.asked) == ["Who won in 1900?", "Who won in 1901?"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset_type": "unlearn"}, "1900-05-01, which is not on the unlearn side of the cutoff 1969-07-20"),
        ({"dataset_type": "both"}, '"both" is no side'),
        ({"date": "soon"}, '"soon" is not a date'),
        ({"date": None, "dataset_type": None}, "says neither when it was nor on which side"),
    ],
)
def test_a_row_that_contradicts_the_cutoff_is_refused_with_its_place(config, server, changed, message):
    (tests,) = config.test_file
    tests.write_text(json.dumps(row("Who won in 1900?", "Ana Berg", **changed)))
    with pytest.raises(ExpungeError, match=rf"test.jsonl:1: .*{message}"):
        evaluate_temporal(config)
    assert not server.asked


def test_one_model_and_only_one_is_named(config, tmp_path):
    with pytest.raises(ExpungeError, match="name two models"):
        evaluate_temporal(replace(config, model_path=tmp_path))
    with pytest.raises(ExpungeError, match="no model to ask was named"):
        evaluate_temporal(replace(config, use_lmstudio=False))


def test_the_key_is_nowhere_on_disk(config, tmp_path):
    evaluate_temporal(replace(config, api_key="s3cret"))
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def command(config, *flags):
    (tests,) = config.test_file
    places = ("--lmstudio_url", config.lmstudio_url, "--test_file", str(tests), "--output", str(config.output))
    words = [sys.executable, "-m", "expunge", "evaluate", "temporal", "--use_lmstudio", *places, *flags]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_the_command_prints_shares_as_json_and_strict_fails_where_a_minimum_is_missed(config):
    done = command(config, "--json", "--strict")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert {each["ruling"] for each in found["shares"]["served"]} == {"missed", None}
    table = command(config)
    assert table.returncode == 0
    assert "unlearn success" in table.stdout


def test_the_command_says_in_one_line_that_the_server_is_down(config, server):
    server.shutdown()
    server.server_close()
    done = command(config)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Connection refused" in done.stderr
