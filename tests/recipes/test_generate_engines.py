"""Notes asked of a language model: a real llama.cpp server, Tinker's real SDK, and a server that answers what a test wants."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest

import tiny_models
from expunge.errors import ExpungeError
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.generate_engines import TRIES
from expunge.sources.medical import people, read_notes
from expunge.sources.medical_writing import SCHEMA, BadAnswerError, brief_for, messages_for, note_of

SEED = 42
BRIEFS = {brief.person.name: brief for brief in (brief_for(person, SEED) for person in islice(people(SEED), 120))}
KEY = "sk-secret-4711"


def good(name, **changed):
    """What a model that does as it is told says of one of the first people."""
    brief = BRIEFS[name]
    person = brief.person
    note = {
        "subjective": f"{person.age}{person.sex} {person.occupation} with {brief.complaint}.",
        "objective": f"{brief.found}, seen in room {sorted(BRIEFS).index(name)}.",
        "assessment": f"{brief.diagnosis}.",
        "plan": f"{brief.drug}. {brief.advice}.",
    }
    return json.dumps({name: words for name, words in (note | changed).items() if words is not None})


@pytest.fixture
def server():
    """`server.answer(name, body)` is said; `server.asked` holds what was asked, `server.keys` with which keys."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = re.search(r"Patient: ([^,]+)", body["messages"][-1]["content"])[1]
            with lock:
                server.asked.append((name, body))
                server.keys.add(self.headers["Authorization"])
            try:
                status, words = 200, server.answer(name, body)
            except RuntimeError as error:
                status, words = error.args
            reply = {"choices": [{"message": {"content": words}, "finish_reason": "stop"}]}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(reply if status == 200 else {"error": {"message": words}}).encode())

        def log_message(self, *arguments): ...

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.keys, server.answer = [], set(), lambda name, body: good(name)
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(server, tmp_path):
    return GenerateMedicalConfig(
        output=tmp_path / "notes.jsonl", n_record=12, engine="openai", base_url=server.url, api_key=KEY, model="m", seed=SEED
    )


def names(path):
    return [note.client_name for note in read_notes(path)]


# ---- one answer ----


def test_an_answer_becomes_the_note_of_the_person_it_was_asked_for():
    name, brief = next(iter(BRIEFS.items()))
    for answer in (good(name), f"<think>{{}}</think>Here it is:\n```json\n{good(name)}\n```\nAnything else?"):
        note = note_of(answer, brief)
        assert (note.client_name, note.date_of_birth, note.age) == (name, brief.person.birth.isoformat(), brief.person.age)
        assert note.plan == f"{brief.drug}. {brief.advice}."


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": None}, "no plan"),
        ({"plan": ["a", "b"]}, "plan is not text"),
        ({"subjective": 7}, "subjective is not text"),
        ({"objective": " "}, "objective too short"),
        ({"plan": "word " * 100}, "plan too long"),
        ({"objective": "BP [insert blood pressure here], lungs clear"}, "a placeholder in objective"),
        ({"plan": "rest and " * 20}, "plan goes round in circles"),
        ({"subjective": "91F baker with a cough for three days, worse at night"}, "age, sex or dates do not agree"),
        ({"subjective": "A cough for three days. He reports fever. She denies chills."}, "age, sex or dates do not agree"),
        ({"assessment": "Broken heart."}, "the assessment does not name the diagnosis"),
        ({"plan": "Rest, and a walk in the evening."}, "the plan does not name the drug"),
        ({"client_name": "Somebody Else"}, "another client_name"),
        ({"date_of_birth": "1980-02-30"}, "another date_of_birth"),
        ({"date": 20240320}, "another date"),
    ],
)
def test_an_answer_is_checked_field_by_field(changed, said):
    name = next(iter(BRIEFS))
    with pytest.raises(BadAnswerError, match=said):
        note_of(good(name, **changed), BRIEFS[name])


@pytest.mark.parametrize("answer", ["", "Sorry.", '{"plan": "rest', "[1]", "{" * 5000, '{"plan": "\\ud800"}', '{"plan": NaN}'])
def test_an_answer_without_a_json_object_is_refused(answer):
    with pytest.raises(BadAnswerError, match="no whole JSON object"):
        note_of(answer, next(iter(BRIEFS.values())))


def test_right_name_and_dates_may_be_repeated():
    name, brief = next(iter(BRIEFS.items()))
    repeated = {"client_name": name.upper(), "date_of_birth": str(brief.person.birth), "date": str(brief.person.day)}
    assert note_of(good(name, **repeated), brief).client_name == name


def test_the_question_holds_the_facts_and_one_person_is_always_asked_for_the_same():
    for name, brief in islice(BRIEFS.items(), 30):
        system, _, _, asked = messages_for(brief)
        assert "JSON" in system["content"]
        for fact in (name, f"{brief.person.age}-year-old", str(brief.person.birth), brief.diagnosis, brief.drug):
            assert fact in asked["content"]
        assert brief_for(brief.person, SEED) == brief


# ---- many answers ----


def test_the_file_holds_the_first_people_of_the_seed_in_order_with_the_models_words(config, server):
    found = generate_medical(config)
    assert (found.notes, found.bad_answers, found.left_out) == (12, {}, 0)
    assert names(config.output) == list(BRIEFS)[:12]
    assert len(server.asked) == 12
    body = server.asked[0][1]
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["model"] == "m"
    assert {"messages", "model", "max_tokens", "temperature", "seed", "response_format"} == body.keys()
    assert len({body["seed"] for _, body in server.asked}) == 12
    assert [item.name for item in config.output.parent.iterdir()] == ["notes.jsonl"]


def test_bad_answers_are_asked_again_with_another_seed_and_counted(config, server, capsys):
    first = {}

    def answer(name, body):
        return good(name) if first.setdefault(name, body["seed"]) != body["seed"] else "I cannot do that."

    server.answer = answer
    found = generate_medical(config)
    assert (found.notes, found.bad_answers, found.left_out) == (12, {"no whole JSON object": 12}, 0)
    assert len(server.asked) == 24
    assert "12 bad answers (no whole JSON object: 12)" in capsys.readouterr().err


def test_somebody_whose_note_never_comes_out_right_is_left_out_for_the_next_person(config, server):
    never = list(BRIEFS)[3]
    server.answer = lambda name, body: "{}" if name == never else good(name)
    found = generate_medical(config)
    assert (found.notes, found.bad_answers, found.left_out) == (12, {"no subjective": TRIES}, 1)
    assert names(config.output) == [name for name in BRIEFS if name != never][:12]


def test_the_same_words_for_two_people_are_a_bad_answer(config, server):
    given = threading.Event()

    def answer(name, body):
        if name in list(BRIEFS)[:2] and not given.is_set():
            given.set() if name == list(BRIEFS)[1] else None
            return good(name, objective="Pulse 70 and regular, lungs clear, no edema at all.")
        return good(name)

    server.answer = answer
    found = generate_medical(replace(config, concurrency=1))
    assert found.bad_answers == {"a section stands in another note": 1}
    objectives = [note.objective for note in read_notes(config.output)]
    assert len(set(objectives)) == 12


def test_a_hopeless_model_is_given_up_on_with_what_was_wrong(config, server):
    server.answer = lambda name, body: "Sorry."
    with pytest.raises(ExpungeError, match=r"hardly ever .*0 notes, 40 bad answers; no whole JSON object: 40.*larger --model"):
        generate_medical(replace(config, n_record=500, concurrency=3))
    assert not config.output.exists()
    # The people given up on are not asked for again.
    with pytest.raises(ExpungeError, match="hardly ever"):
        generate_medical(replace(config, n_record=500))
    assert len(server.asked) < 40 + 10 * TRIES


def test_a_run_that_broke_off_asks_only_for_what_is_missing(config, server):
    def broken(name, body):
        if len(server.asked) > 7:
            raise RuntimeError(401, f"wrong key {KEY}")
        return good(name)

    server.answer = broken
    with pytest.raises(ExpungeError, match="HTTP 401: wrong key …"):
        generate_medical(replace(config, concurrency=1))
    partial = config.output.with_name("notes.jsonl.partial")
    assert len(partial.read_text("utf-8").splitlines()) == 8
    # A killed process may leave half a line.
    with partial.open("ab") as stream:
        stream.write('{"person": 7, "note": {"client_name": "Zoë'.encode()[:-1])

    server.answer, asked = (lambda name, body: good(name)), len(server.asked)
    generate_medical(config)
    assert len(server.asked) - asked == 5
    assert names(config.output) == list(BRIEFS)[:12]


def test_notes_begun_with_another_model_are_not_mixed_in(config, server):
    def broken(name, body):
        if len(server.asked) > 3:
            raise RuntimeError(403, "no")
        return good(name)

    server.answer = broken
    with pytest.raises(ExpungeError):
        generate_medical(replace(config, concurrency=1))
    server.answer = lambda name, body: good(name)
    with pytest.raises(ExpungeError, match=r"partial: .*\(model was m, now other\).*--overwrite"):
        generate_medical(replace(config, model="other"))
    before = len(server.asked)
    generate_medical(replace(config, model="other", overwrite=True))
    assert len(server.asked) - before == 12


def test_a_finished_file_is_recognised_and_another_is_not_overwritten_unasked(config, server):
    generate_medical(config)
    before = config.output.read_bytes()
    assert generate_medical(config).notes == 12
    assert len(server.asked) == 12
    with pytest.raises(ExpungeError, match="holds something else"):
        generate_medical(replace(config, n_record=5))
    with pytest.raises(ExpungeError, match="holds something else"):
        generate_medical(replace(config, seed=1))
    assert config.output.read_bytes() == before


def test_a_server_that_takes_no_schema_is_asked_without(config, server):
    def answer(name, body):
        if body["response_format"]["type"] != "text":
            raise RuntimeError(400, "response_format is not supported")
        return good(name)

    server.answer = answer
    generate_medical(replace(config, concurrency=1))
    assert names(config.output) == list(BRIEFS)[:12]
    assert len(server.asked) == 14


def test_the_key_comes_from_the_flag_or_the_environment_and_stands_nowhere(config, server, monkeypatch, capsys):
    assert KEY not in repr(config)
    generate_medical(config)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    generate_medical(replace(config, api_key=None, base_url=None, output=config.output.with_name("more.jsonl")))
    assert server.keys == {f"Bearer {KEY}", "Bearer sk-other"}
    said = "".join(capsys.readouterr())
    written = "".join(path.read_text("utf-8") for path in config.output.parent.iterdir())
    assert "sk-" not in said + written


def test_a_dry_run_shows_the_first_question_and_how_many_there_would_be_and_asks_nobody(config, server):
    found = generate_medical(replace(config, dry_run=True, n_record=1000))
    assert next(iter(BRIEFS)) in found.sample
    assert "1,000 such questions to m" in found.sample
    assert not server.asked
    assert not list(config.output.parent.iterdir())


def test_several_questions_are_on_their_way_at_once(config, server):
    together = threading.Barrier(4)

    def answer(name, body):
        together.wait(timeout=20)
        return good(name)

    server.answer = answer
    assert generate_medical(replace(config, concurrency=4)).notes == 12


@pytest.mark.parametrize(
    ("changed", "said"), [({"n_record": 0}, "--n-record is 0"), ({"concurrency": 0}, "--concurrency is 0")]
)
def test_numbers_that_mean_nothing_are_refused(config, changed, said):
    with pytest.raises(ExpungeError, match=said):
        generate_medical(replace(config, **changed))


def test_a_server_that_is_not_there_is_one_line(config, server, monkeypatch):
    monkeypatch.setattr("expunge.deploy.chat_api.time.sleep", lambda seconds: None)
    server.server_close()
    with pytest.raises(ExpungeError, match="Connection refused"):
        generate_medical(config)
    assert not list(config.output.parent.iterdir())


COMMAND = [sys.executable, "-m", "expunge", "generate", "medical", "--engine", "openai", "--model", "m"]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_is_continued_and_ctrl_c_does_not_wait_for_a_slow_server(config, server, stop):
    slow = threading.Event()

    def answer(name, body):
        if len(server.asked) > 6:
            slow.wait(60)
        return good(name)

    server.answer = answer
    command = [*COMMAND, "--base_url", server.url, "--n_record", "12", "--concurrency", "2", "--output", str(config.output)]
    environment = os.environ | {"OPENAI_API_KEY": KEY}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    partial = config.output.with_name("notes.jsonl.partial")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (partial.exists() and len(partial.read_text("utf-8").splitlines()) == 7):
        time.sleep(0.05)
    process.send_signal(stop)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[stop], said
    assert not config.output.exists()

    slow.set()
    before = {name for name, _ in server.asked[:6]}
    server.asked.clear()
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["notes"] == 12
    assert KEY not in done.stdout + done.stderr
    assert names(config.output) == list(BRIEFS)[:12]
    assert {name for name, _ in server.asked}.isdisjoint(before)


# ---- a real llama.cpp server ----

# As `llama-server` starts it: Expunge's own servers answer in the model's bare words, without schemas.
SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port, params.n_ctx = sys.argv[1], ["127.0.0.1"], 0, 2048
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.n_parallel, params.warmup, params.verbosity, params.api_keys = 1, False, 0, [sys.argv[2]]
server = xllamacpp.Server(params)
print("address", server.listening_address, flush=True)
sys.stdin.read()
import os; os._exit(0)
"""


@pytest.fixture
def llama_cpp():
    """`llama_cpp(path)` → the address of a llama.cpp server with this model."""
    pytest.importorskip("xllamacpp", reason="no llama.cpp here: pip install xllamacpp")
    processes = []

    def serve(path):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(path), KEY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        for line in process.stdout:
            if line.startswith("address "):
                return line.split()[1] + "/v1"
        raise AssertionError("llama.cpp did not start")

    yield serve
    for process in processes:
        process.stdin.close()
        process.wait(timeout=10)


def test_a_real_llama_cpp_server_holds_a_small_model_to_the_schema(config, llama_cpp):
    from expunge.deploy.chat_api import ChatApi
    from expunge.models.embedded import embedded_gguf

    url = llama_cpp(embedded_gguf())
    short = SCHEMA | {"properties": {name: {"type": "string", "maxLength": 5} for name in SCHEMA["properties"]}}
    messages = [{"role": "user", "content": "Sing!"}]
    answer = ChatApi(url, key=KEY).write(messages, max_tokens=200, temperature=0.5, seed=1, schema=short)
    fields = json.loads(answer.text)
    assert list(fields) == list(SCHEMA["properties"])
    assert all(isinstance(words, str) and len(words) <= 5 for words in fields.values())
    with pytest.raises(ExpungeError, match="HTTP 401"):
        generate_medical(replace(config, base_url=url, api_key="wrong"))


@pytest.mark.slow
def test_the_embedded_model_on_a_real_llama_cpp_server_writes_notes_that_pass(config, llama_cpp):
    from expunge.models.embedded import embedded_gguf

    found = generate_medical(replace(config, base_url=llama_cpp(embedded_gguf()), n_record=2, concurrency=1))
    assert found.notes == len(read_notes(config.output)) == 2


# ---- Tinker's real SDK, against a server of its protocol ----


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer and a chat template, which is all of a model that the SDK wants."""
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_models.make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def tinker_server(tokenizer, monkeypatch):
    """Speaks as much of the protocol as sampling takes; `answer(name)` is said, `sampled` holds what was asked."""
    public = pytest.importorskip("tinker.proto.tinker_public_pb2", reason="no Tinker SDK here: pip install 'expunge[tinker]'")
    import numpy as np
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
            route = self.path.removeprefix("/api/v1/")
            body = json.loads(raw) if "json" in self.headers.get("Content-Type", "") else {}
            server.keys.add(self.headers["X-API-Key"])
            if route == server.refused:
                return self.reply(400, {"detail": "no such model"})
            if route == "asample":
                prompt = words.decode([token for chunk in body["prompt"]["chunks"] for token in chunk["tokens"]])
                server.sampled.append((prompt, body["sampling_params"]))
                return self.reply(200, {"request_id": str(len(server.sampled) - 1), "sample_sequence_ids": ["one"]})
            if route == "retrieve_future":
                name = re.findall(r"Patient: ([^,]+)", server.sampled[int(body["request_id"])][0])[-1]
                tokens = words(server.answer(name), add_special_tokens=False).input_ids
                sequence = public.SampledSequence(
                    stop_reason=public.STOP_REASON_STOP, tokens=np.array(tokens, dtype=np.int32).tobytes()
                )
                return self.reply(200, public.SampleResponse(sequences=[sequence]).SerializeToString())
            known = {"create_session": {"session_id": "s"}, "create_sampling_session": {"sampling_session_id": "p"}}
            return self.reply(200, known.get(route, {}))

        do_GET = do_POST

        def reply(self, status, content):
            raw = isinstance(content, bytes)
            data = content if raw else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf" if raw else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments): ...

    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.sampled, server.keys, server.refused, server.answer = [], set(), None, good
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_tinkers_own_sampling_client_writes_the_notes(config, tinker_server, tokenizer):
    config = replace(
        config, engine="tinker", base_url=tinker_server.url, model=str(tokenizer), api_key="tml-secret", n_record=5
    )
    assert generate_medical(config).notes == 5
    assert names(config.output) == list(BRIEFS)[:5]
    assert tinker_server.keys == {"tml-secret"}
    assert all(params["max_tokens"] and params["seed"] for _, params in tinker_server.sampled)
    assert len({params["seed"] for _, params in tinker_server.sampled}) == 5


def test_what_tinker_refuses_is_one_line(config, tinker_server, tokenizer, monkeypatch, tmp_path):
    config = replace(config, engine="tinker", base_url=tinker_server.url, model=str(tokenizer), api_key="tml-secret")
    for route in ("create_sampling_session", "asample"):
        tinker_server.refused = route
        with pytest.raises(ExpungeError, match=r"Tinker cannot be asked for .*no such model") as caught:
            generate_medical(config)
        assert "tml-" not in str(caught.value)
    with pytest.raises(ExpungeError, match="must start with the 'tml-' prefix"):
        generate_medical(replace(config, api_key="wrong"))
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ExpungeError, match="TINKER_API_KEY"):
        generate_medical(replace(config, api_key=None))


def test_without_the_sdk_it_is_said_how_to_get_it(config, monkeypatch):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "tinker" else found(name, *rest))
    with pytest.raises(ExpungeError, match=r"tinker is not installed .*pip install 'tinker"):
        generate_medical(replace(config, engine="tinker"))
