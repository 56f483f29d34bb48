"""Audits of tiny models that really memorised, unlearned and were retrained."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import harmonic_mean
from typing import NamedTuple

import pytest

import tiny_people
from expunge.audit.results import Audit
from expunge.audit.verdict import Rules
from expunge.errors import ExpungeError
from expunge.examples import Example, write_examples
from expunge.ledger import Ledger
from expunge.methods.grad_diff import GradDiff
from expunge.metrics import METRICS
from expunge.recipes.audit import AUDIT, audit
from expunge.recipes.audit_config import AuditConfig
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn

AUDIT_IN_A_PROCESS = """
import sys
from pathlib import Path
from expunge.recipes.audit import audit
from expunge.recipes.audit_config import AuditConfig
names = ("target", "unlearned", "retrained")
paths = ("forget", "retain", "holdout", "ordinary", "output", "evidence")
audit(AuditConfig(**dict(zip(names, sys.argv[1:4])), **dict(zip(paths, map(Path, sys.argv[4:10]))), threads=1))
"""


class Audited(NamedTuple):
    """The models and sets of an audit, an audit of them, and where its evidence and ledger are."""

    settings: dict[str, object]
    path: Path
    evidence: Path
    database: Path

    def config(self, output: Path, **changed: object) -> AuditConfig:
        """The same audit elsewhere."""
        return AuditConfig(**{**self.settings, "output": output, "evidence": self.evidence, "threads": 1, **changed})


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    tiny = tiny_people.target(tmp_path_factory)
    directory = tmp_path_factory.mktemp("audit")
    database = directory / "ledger.db"
    sets = {name: getattr(tiny.files, name) for name in ("forget", "retain", "holdout")}
    unlearned = unlearn(
        UnlearnConfig(
            model=str(tiny.target),
            **sets,
            output=directory / "unlearned",
            steps=40,
            learning_rate=1e-3,
            database=str(database),
            threads=1,
        ),
        "grad-diff",
        GradDiff(),
    )
    retrained = finetune(
        FinetuneConfig(
            data_file=(tiny.files.retain,),
            output=directory / "retrained",
            model=str(tiny.base),
            epochs=25,
            learning_rate=5e-3,
            batch_size=4,
            checkpoint_steps=1000,
            threads=1,
        )
    )
    models = {"target": tiny.target, "unlearned": unlearned.path / "model", "retrained": retrained.path / "model"}
    settings = {name: str(path) for name, path in models.items()} | tiny.files._asdict()
    run = audit(AuditConfig(**settings, output=directory / "audit", evidence=directory / "evidence", threads=1))
    return Audited(settings, run.path / AUDIT, directory / "evidence", database)


def lines(directory: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in directory.glob("*.jsonl")}


def test_the_audit_tells_who_remembers(audited):
    result = Audit.read(audited.path)

    def value(metric, model, set):
        return result.score(metric, model, set).value

    for metric in ("rouge-l-recall", "exact-memorisation", "extraction-strength"):
        assert value(metric, "target", "forget") == value(metric, "target", "retain") == 1
        assert value(metric, "unlearned", "forget") < 0.7
        assert value(metric, "retrained", "forget") < 0.7
        assert value(metric, "retrained", "retain") > 0.9
    assert value("loss-auc", "target", "forget") == 1
    assert value("loss", "unlearned", "forget") == pytest.approx(value("loss", "unlearned", "holdout"), abs=0.2)
    assert value("loss", "unlearned", "retain") < value("loss", "unlearned", "holdout") / 3
    assert {(model.role, model.name) for model in result.models} == {
        (role, audited.settings[role]) for role in ("target", "unlearned", "retrained")
    }
    assert [(set.name, set.examples, set.people) for set in result.sets] == [
        ("forget", 4, 4),
        ("retain", 8, 8),
        ("holdout", 4, 4),
        ("ordinary", 2, 2),
    ]


def test_every_question_of_the_forget_and_retain_set_has_an_answer_of_every_model(audited):
    answers = Audit.read(audited.path).answers
    assert {(answer.set, answer.subject, answer.expected) for answer in answers} == {
        *(("forget", example.subject, example.response) for example in tiny_people.FORGET),
        *(("retain", example.subject, example.response) for example in tiny_people.RETAIN),
    }
    for answer in answers:
        assert set(answer.answers) == {"target", "unlearned", "retrained"}
        assert answer.answers["target"] == answer.expected


def test_evidence_is_kept_once_for_each_model_and_set_and_each_example_once(audited):
    kept = lines(audited.evidence)
    assert len(kept) == 3 * 4
    # Scores of 18 examples, answers to 12 of them.
    assert sum(map(len, kept.values())) == 3 * (18 + 12)
    assert all(len(set(rows)) == len(rows) for rows in kept.values())


def test_a_second_audit_with_the_same_evidence_folder_adds_no_line_and_finds_the_same(audited, tmp_path, monkeypatch):
    before = lines(audited.evidence)
    monkeypatch.setattr("expunge.models.load_model", None)  # no model is asked, or even loaded
    again = audit(audited.config(tmp_path / "again"))
    assert lines(audited.evidence) == before
    assert (again.path / AUDIT).read_bytes() == audited.path.read_bytes()


def test_other_rules_and_intervals_need_no_model_time(audited, tmp_path, monkeypatch):
    before = lines(audited.evidence)
    monkeypatch.setattr("expunge.models.load_model", None)
    audit(audited.config(tmp_path / "again", seed=1, rules=Rules(max_slack=0.4)))
    assert lines(audited.evidence) == before


def test_a_finished_audit_answers_at_once(audited, monkeypatch):
    monkeypatch.setattr("expunge.recipes.audit.record", None)
    assert audit(audited.config(audited.path.parent)).finished


def test_an_audit_that_was_killed_goes_on_and_ends_with_the_same_file(audited, tmp_path):
    evidence, output = tmp_path / "evidence", tmp_path / "audit"
    tiny_people.kill_when(
        AUDIT_IN_A_PROCESS,
        *audited.settings.values(),
        output,
        evidence,
        ready=lambda: sum(map(len, lines(evidence).values())) >= 20,
    )
    assert not (output / AUDIT).exists()
    left = sum(map(len, lines(evidence).values()))
    assert 20 <= left < 3 * (18 + 12)

    audit(audited.config(output, evidence=evidence))
    assert (output / AUDIT).read_bytes() == audited.path.read_bytes()
    assert {name: sorted(rows) for name, rows in lines(evidence).items()} == {
        name: sorted(rows) for name, rows in lines(audited.evidence).items()
    }


def test_the_ledger_is_told_the_verdict_even_by_an_audit_that_was_finished_without_it(audited):
    audit(audited.config(audited.path.parent, database=str(audited.database)))
    with Ledger.open(audited.database, create=False) as ledger:
        (request,) = ledger.requests()
    assert request.state == "audited"
    claims = {f"{claim.model}: {claim.name}": claim.ruling for claim in Audit.read(audited.path).claims}
    assert claims
    assert request.verdict == claims


def test_an_audit_for_a_ledger_without_such_a_request_says_so_before_it_asks_anything(audited, tmp_path):
    Ledger.open(tmp_path / "other.db").close()
    with pytest.raises(ExpungeError, match=r"no deletion request covers the forget set.*: unlearn with --database first"):
        audit(audited.config(tmp_path / "audit", database=str(tmp_path / "other.db")))
    with pytest.raises(ExpungeError, match="there is no ledger here"):
        audit(audited.config(tmp_path / "audit", database=str(tmp_path / "none.db")))
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


def test_sets_that_share_a_person_are_refused_before_anything_is_written(audited, tmp_path):
    with pytest.raises(ExpungeError, match=r'"Ana" also stands at .*forget\.jsonl:1'):
        audit(audited.config(tmp_path / "audit", retain=audited.settings["forget"]))
    with pytest.raises(ExpungeError, match="also stands at"):
        audit(audited.config(tmp_path / "audit", holdout=audited.settings["retain"]))
    with pytest.raises(ExpungeError, match="no such model"):
        audit(audited.config(tmp_path / "audit", unlearned=str(tmp_path / "nowhere")))
    assert not (tmp_path / "audit").exists()


PLACES = ("Lyon", "Oslo", "Bonn", "Turin")


def with_others(examples, *, paraphrased=False):
    """The examples with wrong answers and perhaps a paraphrase, as TOFU has them."""
    return [
        replace(
            example,
            metadata={
                **({"paraphrased_answer": f"{example.subject} is at {example.response.split()[-1]}"} if paraphrased else {}),
                "perturbed_answer": [f"{example.subject} is in {place}." for place in PLACES if place not in example.response],
            },
        )
        for example in examples
    ]


def test_an_audit_of_all_metrics_measures_each_of_them_and_pools_several_runs(audited, tmp_path):
    files = {}
    for name, examples in (
        ("forget", with_others(tiny_people.FORGET, paraphrased=True)),
        ("retain", with_others(tiny_people.RETAIN[:4])),
        ("holdout", tiny_people.HOLDOUT),
        ("real_authors", with_others(tiny_people.RETAIN[4:6])),
        ("world_facts", with_others(tiny_people.RETAIN[6:])),
        ("quiz", [choice(number, name) for number, name in enumerate(("Ana", "Ben"))]),
    ):
        files[name] = tmp_path / f"{name}.jsonl"
        write_examples(files[name], examples)
    further = tuple(f"{name}={files[name]}" for name in ("real_authors", "world_facts", "quiz"))
    run = audit(
        audited.config(
            tmp_path / "audit",
            **{name: files[name] for name in ("forget", "retain", "holdout")},
            set=further,
            also_unlearned=(audited.settings["retrained"],),
            metrics=("all",),
            samples=8,
        )
    )
    found = Audit.read(run.path / AUDIT)
    assert {score.metric for score in found.scores} == set(METRICS)
    for score in found.scores:
        assert score.low <= score.value <= score.high, score.metric
        least, most = score.span
        assert least <= score.value <= (most if most is not None else float("inf")), score.metric
    runs = [found.score("loss", f"unlearned-{number}", "forget").value for number in (1, 2)]
    assert found.score("loss", "unlearned", "forget").value == pytest.approx(sum(runs) / 2)
    nine = [found.score(name, "target", set).value for set, names in METRICS["model-utility"].of.items() for name in names]
    assert len(nine) == 9
    assert found.score("model-utility", "target", "utility").value == pytest.approx(harmonic_mean(nine))
    assert found.score("multiple-choice", "target", "quiz").people == 2
    assert found.score("probability", "target", "quiz") is None
    assert found.score("truth-ratio", "target", "forget").value < found.score("truth-ratio", "retrained", "forget").value
    assert found.score("reference-auc", "retrained", "forget") is None
    assert {claim.model for claim in found.claims} == {"unlearned"}
    # All of it is kept: another audit of fewer metrics loads no model.
    before = lines(audited.evidence)
    audit(
        audited.config(
            tmp_path / "again",
            **{name: files[name] for name in ("forget", "retain", "holdout")},
            set=further,
            metrics=("leak-at-8", "truth-ratio"),
            samples=8,
        )
    )
    assert lines(audited.evidence) == before


def choice(number, name):
    metadata = {"choices": [*PLACES], "answer": number, "evaluation_only": True}
    return Example(f"Where is {name}?", PLACES[number], name, metadata)


def test_questions_that_leave_no_room_are_left_out_and_counted_and_those_that_are_cut_too(audited, tmp_path):
    long = Example("Where " * 100 + "is Ana?", "Ana is in Lyon.", "Ana")
    write_examples(tmp_path / "forget.jsonl", [*tiny_people.FORGET, long])
    write_examples(tmp_path / "retain.jsonl", [replace(e, response=e.response + " It is" * 60) for e in tiny_people.RETAIN[:2]])
    sets = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "retain")}
    found = Audit.read(audit(audited.config(tmp_path / "audit", **sets, max_seq_length=100)).path / AUDIT)
    words = " ".join(found.warnings)
    assert "1 of 5 examples of the forget set were left out" in words
    assert "2 of 2 examples of the retain set were cut" in words
    assert [set_.examples for set_ in found.sets if set_.name == "forget"] == [4]
    write_examples(tmp_path / "all.jsonl", [long, replace(long, response="Ana was in Lyon.")])
    with pytest.raises(ExpungeError, match=r"no question of the forget set leaves room.*raise --max-seq-length"):
        audit(audited.config(tmp_path / "none", forget=tmp_path / "all.jsonl", max_seq_length=100))


def test_without_a_retrained_model_the_holdout_people_are_asked_too(audited, tmp_path):
    found = Audit.read(audit(audited.config(tmp_path / "audit", retrained=None)).path / AUDIT)
    assert found.score("rouge-l-recall", "unlearned", "holdout") is not None
    assert "holdout people" in next(claim for claim in found.claims if claim.name == "forgotten").rule


def test_a_further_set_needs_a_name_of_its_own_and_shares_no_row_with_the_forget_set(audited, tmp_path):
    for given, words in (("x", "names no file"), (f"retain={tmp_path}", "already"), ("utility=a", "already")):
        with pytest.raises(ExpungeError, match=words):
            audit(audited.config(tmp_path / "audit", set=(given,)))
    with pytest.raises(ExpungeError, match=r"forget\.jsonl:1: the same example also stands at"):
        audit(audited.config(tmp_path / "audit", set=(f"mine={audited.settings['forget']}",)))
    with pytest.raises(ExpungeError, match='did you mean "leak-at-8"'):
        audit(audited.config(tmp_path / "audit", metrics=("leak-at-9",)))
    assert not (tmp_path / "audit").exists()


class Server(ThreadingHTTPServer):
    """Answers as the target would, until it has answered so often."""

    def __init__(self, until):
        super().__init__(("127.0.0.1", 0), Reply)
        self.left, self.asked = until, []
        self.known = {example.prompt: example.response for example in tiny_people.PEOPLE}


class Reply(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.left -= 1
        if self.server.left < 0:
            self.send_error(401, "gone")
            return
        prompt = body["messages"][0]["content"]
        self.server.asked.append((body["model"], prompt))
        said = "" if body["model"] == "quiet" else self.server.known[prompt]
        reply = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words):
        pass


def test_a_server_that_dies_midway_is_asked_only_for_the_rest_and_the_report_says_what_it_cannot_tell(audited, tmp_path):
    with Server(until=17) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        config = audited.config(
            tmp_path / "audit",
            target="known",
            unlearned="quiet",
            retrained=None,
            engine="api",
            base_url=f"http://127.0.0.1:{server.server_port}/v1",
            evidence=None,
            concurrency=1,
        )
        with pytest.raises(ExpungeError, match="cannot be asked"):
            audit(config)
        server.left = 10**6
        found = Audit.read(audit(config).path / AUDIT)
        server.shutdown()
    assert len(server.asked) == 2 * 16
    assert len(set(server.asked)) == 2 * 16
    assert found.score("rouge-l-recall", "target", "forget").value == 1
    assert found.score("rouge-l-recall", "unlearned", "forget").value == 0
    assert found.score("loss", "target", "forget") is None
    words = " ".join(found.warnings)
    assert "gives answers alone" in words
    assert "min-k-auc" in words
    assert "said nothing at all to 4 of 4 questions of the forget set" in words
    with pytest.raises(ExpungeError, match="give --base-url"):
        audit(audited.config(tmp_path / "other", engine="api"))
