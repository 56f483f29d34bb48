"""Audits with attacks, of a tiny model that knows people by heart: nothing here is played."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

import tiny_people
from expunge.audit.attacks import ATTACKS
from expunge.audit.results import Audit
from expunge.cli import app
from expunge.errors import ExpungeError
from expunge.recipes.audit import AUDIT, audit
from expunge.recipes.audit_config import AuditConfig
from expunge.report import render

TRIED = ("prefix", "few-shot:draws=1", "quantize:kinds=nf4", "relearn:learning-rate=2e-3:epochs=12", "extraction:weight=1.4")

IN_A_PROCESS = """
import json, sys
from pathlib import Path
from expunge.recipes.audit import audit
from expunge.recipes.audit_config import AuditConfig
settings = json.loads(sys.argv[1])
paths = ("forget", "retain", "holdout", "ordinary", "output", "evidence")
audit(AuditConfig(**settings | {name: Path(settings[name]) for name in paths}, attacks=tuple(sys.argv[2:]), threads=1))
"""


class Attacked(NamedTuple):
    """An audit with attacks, in which the base model stands for both the unlearned and the retrained one."""

    settings: dict[str, object]
    path: Path
    evidence: Path

    def config(self, output: Path, **changed: object) -> AuditConfig:
        """The same audit elsewhere."""
        own = {"attacks": TRIED, "output": output, "evidence": self.evidence, "threads": 1}
        return AuditConfig(**{**self.settings, **own, **changed})


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    tiny = tiny_people.target(tmp_path_factory)
    directory = tmp_path_factory.mktemp("attacks")
    models = {"target": str(tiny.target), "unlearned": str(tiny.base), "retrained": str(tiny.base)}
    made = Attacked({**models, **tiny.files._asdict()}, directory / "audit" / AUDIT, directory / "evidence")
    audit(made.config(directory / "audit"))
    return made


def lines(directory: Path, which: str = "*.jsonl") -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in directory.glob(which)}


def nobody(*_, **__):
    raise AssertionError("a model was loaded")


def test_every_attack_is_tried_on_every_model_and_the_claim_stands_in_the_verdict(attacked):
    found = Audit.read(attacked.path)
    by_attack: dict[tuple[str, str], set[str]] = {}
    for each in found.attacks:
        by_attack.setdefault((each.attack, each.variant), set()).add(each.model)
        assert each.low <= each.value <= each.high
        assert [*each.subjects] == [example.subject for example in tiny_people.FORGET]
        assert each.people == len(each.values) == 4
    everybody, later = {"target", "unlearned", "retrained"}, {"unlearned", "retrained"}
    taught = "relearn learning-rate=2e-3 epochs=12"
    assert by_attack == {
        ("prefix", ""): everybody,
        ("few-shot draws=1", ""): everybody,
        ("quantize kinds=nf4", "nf4"): everybody,
        (taught, "before"): everybody,
        (taught, "after"): later,
        ("extraction weight=1.4", ""): everybody,
        ("extraction weight=1.4", "alone"): later,
    }
    value = {(each.attack.split(" ")[0], each.variant, each.model): each.value for each in found.attacks}
    assert value["quantize", "nf4", "target"] > 0.5 > value["quantize", "nf4", "unlearned"]
    assert value["relearn", "after", "unlearned"] == value["relearn", "after", "retrained"] > 0.5
    assert value["extraction", "", "target"] == 1
    (claim,) = [claim for claim in found.claims if claim.name == "robust"]
    # The retrained model itself, passed off as unlearned, may never fail.
    assert claim.ruling != "fail"
    own = [each for each in found.attacks if each.model == "unlearned" and each.ruling]
    # The target says everything, so two checkpoints have nothing to add: that is said, and not ruled on.
    assert [each.attack.split(" ")[0] for each in own] == ["prefix", "few-shot", "quantize", "relearn"]
    assert claim.reason == "; ".join(each.reason for each in own)
    assert "The attack extraction weight=1.4 is not ruled on" in " ".join(found.warnings)
    assert not (attacked.path.parent / "attacks" / "work").exists()


def test_a_second_audit_with_the_same_evidence_folder_asks_no_model_and_finds_the_same(attacked, tmp_path, monkeypatch):
    before = lines(attacked.evidence)
    monkeypatch.setattr("expunge.models.load_model", nobody)  # no model is asked, or even loaded
    again = audit(attacked.config(tmp_path / "again"))
    assert lines(attacked.evidence) == before
    assert (again.path / AUDIT).read_bytes() == attacked.path.read_bytes()


@pytest.mark.slow
def test_an_audit_killed_amid_an_attack_goes_on_and_ends_with_the_same_file(attacked, tmp_path):
    evidence, output = tmp_path / "evidence", tmp_path / "audit"
    settings = {name: str(value) for name, value in attacked.settings.items()} | {
        "output": str(output),
        "evidence": str(evidence),
    }
    tiny_people.kill_when(
        IN_A_PROCESS, json.dumps(settings), *TRIED, ready=lambda: any(lines(evidence, "*-prefix-*.jsonl").values())
    )
    assert not (output / AUDIT).exists()
    left = lines(evidence)
    assert not lines(evidence, "*-relearn-*.jsonl")
    audit(attacked.config(output, evidence=evidence))
    assert (output / AUDIT).read_bytes() == attacked.path.read_bytes()
    done = lines(evidence)
    assert all(done[name][: len(rows)] == rows for name, rows in left.items())
    assert done.keys() == lines(attacked.evidence).keys()


def test_a_dry_run_says_how_much_is_left_and_writes_nothing(attacked, tmp_path):
    asked = audit(attacked.config(tmp_path / "dry", evidence=None, dry_run=True)).results
    # 18 examples are scored, 12 of them answered.
    assert asked["examples to ask"] == {"target": 30, "unlearned": 30, "retrained": 30}
    assert asked["attack questions"] == {
        "prefix": 3 * 4 * 2,
        "few-shot draws=1": 3 * 4,
        "quantize kinds=nf4": 3 * 4,
        "relearn learning-rate=2e-3 epochs=12": (1 + 2 + 2) * 4,
        "extraction weight=1.4": 2 * 3 * 4,
    }
    assert [*tmp_path.iterdir()] == []
    known = audit(attacked.config(tmp_path / "dry", dry_run=True)).results
    assert known["examples to ask"] == {"target": 0, "unlearned": 0, "retrained": 0}


def test_strict_is_one_where_an_attack_brings_everything_back(attacked, tmp_path, capsys):
    words = [f"--{name}={attacked.settings[name]}" for name in ("target", "retrained", *tiny_people.Files._fields)]
    words += [f"--unlearned={attacked.settings['target']}", "--attacks", "paraphrase:count=1"]
    words += ["--evidence", str(attacked.evidence)]
    words += ["--output", str(tmp_path / "audit"), "--threads", "1", "--strict"]
    command, bound, _ = app.parse_args(["audit", *words], exit_on_error=False, print_error=False)
    assert command(*bound.args, **bound.kwargs) == 1
    out = capsys.readouterr().out
    assert "✘ unlearned robust: fail. paraphrase count=1: recall 1.000, 4 of 4 people" in " ".join(out.split())
    assert "ROUGE-L recall under attack" in out


def test_without_a_retrained_model_attacks_can_only_fail(attacked, tmp_path):
    run = audit(attacked.config(tmp_path / "audit", attacks=("prefix",), retrained=None))
    (claim,) = [claim for claim in Audit.read(run.path / AUDIT).claims if claim.name == "robust"]
    assert claim.ruling == "not provable"
    assert "no retrained model was attacked beside it" in claim.reason


def test_several_runs_are_attacked_one_by_one_and_ruled_on_together(attacked, tmp_path):
    # The question as it stands is one of the ways to ask, and one of the runs still knows everything.
    more = {"attacks": ("paraphrase:count=1",), "also_unlearned": (attacked.settings["target"],)}
    run = audit(attacked.config(tmp_path / "audit", **more))
    found = Audit.read(run.path / AUDIT)
    value = {each.model: each.value for each in found.attacks}
    assert value["unlearned"] == pytest.approx((value["unlearned-1"] + value["unlearned-2"]) / 2)
    assert next(claim.ruling for claim in found.claims if claim.name == "robust") == "fail"


def test_an_attack_that_cannot_be_tried_is_refused_by_name_before_anything_is_written(attacked, tmp_path):
    for name, words in (
        ("prefx", 'did you mean "prefix"'),
        ("quantize:kinds=nf5", 'did you mean "nf4"'),
        ("few-shot:draws=0", "few-shot draws=0 asks nothing"),
        ("relearn:epochs=-1", "--epochs is -1"),
        ("extraction:gamma=2", "--gamma is at most 1"),
        ("extraction:weight=0,1", "never reads both checkpoints"),
    ):
        with pytest.raises(ExpungeError, match=words):
            audit(attacked.config(tmp_path / "audit", attacks=(name,)))
    with pytest.raises(ExpungeError, match="begins the answer, which a server does not allow"):
        audit(attacked.config(tmp_path / "audit", attacks=("prefix",), engine="api", base_url="http://127.0.0.1:9/v1"))
    assert not (tmp_path / "audit").exists()


class Knows(BaseHTTPRequestHandler):
    """Says everything it knows about whoever is named, if it is the target."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][-1]["content"]
        known = [one.response for one in tiny_people.PEOPLE if one.subject in asked] if body["model"] == "knows" else []
        reply = json.dumps({"choices": [{"message": {"content": " ".join(known) or "Nothing."}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words):
        pass


def test_of_models_behind_a_server_all_attacks_that_only_ask_are_tried_and_the_others_named(attacked, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Knows) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run = audit(
            attacked.config(
                tmp_path / "audit",
                target="knows",
                unlearned="silent",
                retrained="silent too",
                engine="api",
                base_url=f"http://127.0.0.1:{server.server_port}/v1",
                attacks=("all",),
                evidence=None,
            )
        )
        server.shutdown()
    found = Audit.read(run.path / AUDIT)
    asking = {name for name in ATTACKS if ATTACKS[name].prompts} - {"prefix"}
    assert {each.attack for each in found.attacks} == asking
    words = " ".join(found.warnings)
    for name in ("prefix", "quantize", "relearn", "extraction"):
        assert f"The attack {name} was not tried: " in words
    assert {each.ruling for each in found.attacks if each.model == "unlearned"} == {"pass"} | {
        # Who is only hinted at, this server does not recognise.
        each.ruling
        for each in found.attacks
        if each.attack == "multi-hop" and each.model == "unlearned"
    }
    page = render(found, {}, title="Behind a server")
    assert all(f'<th scope="row">{name}</th>' in page for name in asking)


@pytest.mark.slow
def test_all_attacks_together_are_tried_on_weights(attacked, tmp_path):
    found = Audit.read(audit(attacked.config(tmp_path / "audit", attacks=("all",))).path / AUDIT)
    assert {each.attack for each in found.attacks} == {*ATTACKS, "extraction"}
    assert {each.variant for each in found.attacks if each.attack == "quantize"} == {"int8", "nf4", "fp4"}
