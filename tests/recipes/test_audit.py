"""Audits of tiny models that really memorised, unlearned and were retrained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

import tiny_people
from expunge.audit.results import Audit
from expunge.errors import ExpungeError
from expunge.ledger import Ledger
from expunge.methods.grad_diff import GradDiff
from expunge.recipes.audit import AUDIT, AuditConfig, audit
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn

AUDIT_IN_A_PROCESS = """
import sys
from pathlib import Path
from expunge.recipes.audit import AuditConfig, audit
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
    audit(audited.config(tmp_path / "again", seed=1, retrained=None))
    assert lines(audited.evidence) == before


def test_a_finished_audit_answers_at_once(audited, monkeypatch):
    monkeypatch.setattr("expunge.recipes.audit._record", None)
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
