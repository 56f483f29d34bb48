"""Evaluate: hold a model to its cutoff, where it is used: as weights, as a file, or over the address that serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from expunge.errors import ExpungeError, at_least
from expunge.examples import write_rows
from expunge.files import sha256, write_json, written_atomically
from expunge.progress import console
from expunge.runs import Run, settings_of

if TYPE_CHECKING:
    from expunge.audit.cutoff import Judged
    from expunge.evidence import EvidenceStore
    from expunge.recipes.evaluate_models import Model
    from expunge.recipes.evaluate_questions import Asked

EVALUATION, ANSWERS, DIFFERENCES, PLOT = "evaluation.json", "answers.jsonl", "differences.jsonl", "distance.svg"
BASE = "base"
"""What the base is called in a report, and no other model."""
_KEPT = "kept"
"""Answers as they come, inside the run."""
_NOT_OF_THE_RESULT = (
    *("model_path", "lmstudio_url", "compare", "base_model", "test_file", "output", "verbose", "concurrency", "timeout"),
    "threads",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateTemporalConfig:
    """Which model, which questions, and where the answers go."""

    model_path: Path | None = None
    """A merged model, an adapter, or a GGUF file; or `embedded`."""
    use_lmstudio: bool = False
    """Ask the server at --lmstudio-url instead: LM Studio, `expunge serve`, llama.cpp, or any other with OpenAI's interface."""
    lmstudio_url: str = "http://localhost:1234/v1"
    """Where it listens."""
    lmstudio_model: str | None = None
    """Which of the server's models; may be left out where it has one."""
    api_key: str | None = field(default=None, repr=False)
    """Key for the server; where not given, OPENAI_API_KEY of the environment. Never written."""
    compare: tuple[str, ...] = ()
    """More models, asked the same: directories and GGUF files. What they answer differently is listed."""
    base_model: str | None = None
    """The model before it was taught a cutoff, a directory or a GGUF file: what keeping to it costs is measured against it."""
    test_file: tuple[Path, ...] = (
        Path("datasets/test/trained.jsonl"),
        Path("datasets/test/untrained.jsonl"),
        Path("datasets/test/unlearn.jsonl"),
    )
    """Questions with their true answers, as `expunge prepare temporal` writes them to `test/`; its `retain_val` and
    `unlearn_val` will do too."""
    cutoff: str = "1969-07-20"
    """The first day that is to be unknown, YYYY-MM-DD."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    output: Annotated[Path, Parameter(alias=("-o", "--output-dir"))] = Path("runs/temporal-evaluation")
    """Run directory for the answers and the report."""
    verbose: bool = False
    """Print each question with its answer and what that comes to."""
    limit: int | None = None
    """Only the first so many questions of each file."""
    concurrency: int = 4
    """Questions asked of the server at once."""
    timeout: float = 120.0
    """Seconds to wait for an answer of the server before it is asked again."""
    judge_url: str | None = None
    """Address of a model that judges the answers instead of the rules."""
    judge_model: str | None = None
    """Its name there."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""


def evaluate_temporal(config: EvaluateTemporalConfig) -> Run:
    """Ask every question, judge every answer, and report: `evaluation.json`, `answers.jsonl`, `distance.svg`.

    Answers are kept as they come: killed, or cut off from the server, the same command asks only what is missing.

    Raises:
        ExpungeError: nothing to ask was named, a file is no test file or contradicts the cutoff, or a model cannot be asked.
    """
    from expunge.recipes.evaluate_models import UNASKED, record
    from expunge.recipes.evaluate_questions import read_questions

    _check(config)
    asked = read_questions(config.test_file, config.cutoff, config.limit)
    models = _models(config)
    inputs = {f"test file {number}": sha256(path) for number, path in enumerate(config.test_file, start=1)}
    inputs |= {f"model {name}": model.fingerprint for name, model in models.items()}
    with Run.open(config.output, "evaluate temporal", settings_of(config, without=_NOT_OF_THE_RESULT), inputs) as run:
        if run.finished:
            return run
        judged: dict[str, list[Judged]] = {}
        unasked: dict[str, dict[str, str]] = {}
        for name, model in models.items():
            questions = [each for each in asked if name != BASE or not (each.question.trained or each.question.probe)]
            with run.timed(name):
                kept = record(name, model, [each.example for each in questions], run.path / _KEPT, config.max_tokens)
                unasked[name] = {
                    each.question.prompt: why for each in questions if (why := kept.part(each.example.id, UNASKED))
                }
                judged[name] = _judged(config, [each for each in questions if each.question.prompt not in unasked[name]], kept)
        report = _report(config, judged, unasked)
        if config.verbose:
            _tell(next(iter(judged.values())))
        outputs = _write(run.path, config, judged, report)
        run.finish(dict.fromkeys(outputs, ""), **report)
        return run


def _check(config: EvaluateTemporalConfig) -> None:
    at_least(1, max_tokens=config.max_tokens, limit=config.limit, concurrency=config.concurrency, threads=config.threads)
    if config.timeout <= 0:
        raise ExpungeError(f"--timeout is {config.timeout:g}", remedy="give more than 0 seconds")
    served = config.use_lmstudio or config.lmstudio_model is not None
    if served and config.model_path:
        raise ExpungeError("--model-path and --use-lmstudio name two models", remedy="give one, and the other to --compare")
    if not (served or config.model_path or config.compare):
        raise ExpungeError("no model to ask was named", remedy="give --model-path, --use-lmstudio or --compare")
    if config.judge_model and not config.judge_url:
        raise ExpungeError("--judge-model has no address", remedy="give --judge-url")


def _models(config: EvaluateTemporalConfig) -> dict[str, Model]:
    """Every model by the name it has in the report; the first is the one that is judged by the targets."""
    from expunge.recipes.evaluate_models import open_model, open_server

    found: dict[str, Model] = {}

    def add(name: str, otherwise: str, model: Model) -> None:
        found[otherwise if name in (BASE, *found) else name] = model

    if config.use_lmstudio or config.lmstudio_model:
        server = open_server(
            config.lmstudio_url,
            config.lmstudio_model,
            config.api_key,
            timeout=config.timeout,
            concurrency=config.concurrency,
        )
        add(config.lmstudio_model or "served", "served", server)
    for place in (*([str(config.model_path)] if config.model_path else []), *config.compare):
        add(_name(place), str(Path(place).absolute()), open_model(place, config.threads))
    if config.base_model:
        found[BASE] = open_model(config.base_model, config.threads)
    return found


def _name(place: str) -> str:
    """What a model is called in the report: a file by its name, a directory by the run it lies in."""
    path = Path(place)
    return path.name if path.suffix == ".gguf" else path.parent.name if path.name == "model" and path.parent.name else place


def _judged(config: EvaluateTemporalConfig, asked: Sequence[Asked], kept: EvidenceStore) -> list[Judged]:
    """What each answer comes to, by the rules, or by the judge where one was named."""
    from expunge.audit.cutoff import Judged, outcome
    from expunge.recipes.evaluate_judge import verdicts

    answers = {each.example.id: str(kept.part(each.example.id, "generated")) for each in asked}
    opinions = (
        verdicts(
            asked,
            answers,
            kept.path.parent,
            url=config.judge_url,
            model=config.judge_model,
            concurrency=config.concurrency,
        )
        if config.judge_url
        else {}
    )
    found = []
    for each in asked:
        id, answer = each.example.id, answers[each.example.id]
        ruled = outcome(each.question, answer)
        opinion = opinions.get(id)
        found.append(
            Judged(
                question=each.question,
                answer=answer,
                outcome=opinion or ruled,
                ruled=ruled if opinion else None,
                whole=kept.part(id, "whole") is not False,
            )
        )
    return found


def _report(
    config: EvaluateTemporalConfig, judged: Mapping[str, Sequence[Judged]], unasked: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Everything the evaluation found, as JSON holds it."""
    from expunge.audit.cutoff import by_distance, by_set, cost, differences, shares

    asked = {name: rows for name, rows in judged.items() if name != BASE}
    report: dict[str, Any] = {
        "cutoff": config.cutoff,
        "shares": {name: [each._asdict() for each in shares(rows)] for name, rows in judged.items()},
        "sets": {name: [each._asdict() for each in by_set(rows)] for name, rows in judged.items()},
        "distance": {name: [each._asdict() for each in by_distance(rows)] for name, rows in asked.items()},
        "cut_off": {name: sum(not row.whole for row in rows) for name, rows in judged.items()},
        "unasked": {name: dict(found) for name, found in unasked.items() if found},
    }
    if BASE in judged:
        # It was taught no cutoff: of its shares, one means something.
        report["shares"][BASE] = [each for each in report["shares"][BASE] if each["name"] == "untrained accuracy"]
        for name, rows in asked.items():
            if (found := cost(rows, judged[BASE])) is not None:
                report["shares"][name].append(found._asdict())
    if len(asked) > 1:
        report["differences"] = len(differences(asked))
    if config.judge_url:
        report["judge_against_rules"] = sum(row.ruled not in (None, row.outcome) for rows in judged.values() for row in rows)
    return report


def _write(
    place: Path, config: EvaluateTemporalConfig, judged: Mapping[str, Sequence[Judged]], report: dict[str, Any]
) -> list[str]:
    """The files of the run."""
    from expunge.audit.cutoff import by_distance, differences
    from expunge.report.distance_plot import distance_plot

    asked = {name: rows for name, rows in judged.items() if name != BASE}
    write_json(place / EVALUATION, report)
    write_rows(place / ANSWERS, (_row(name, each) for name, rows in judged.items() for each in rows))
    with written_atomically(place / PLOT) as stream:
        stream.write(distance_plot({name: by_distance(rows) for name, rows in asked.items()}, cutoff=config.cutoff))
    if "differences" not in report:
        return [EVALUATION, ANSWERS, PLOT]
    rows = (
        {"prompt": each.question.prompt, "expected": each.question.expected, "outcomes": each.outcomes, "answers": each.answers}
        for each in differences(asked)
    )
    write_rows(place / DIFFERENCES, rows)
    return [EVALUATION, ANSWERS, PLOT, DIFFERENCES]


def _row(name: str, each: Judged) -> dict[str, Any]:
    question = each.question
    row = {
        "model": name,
        "set": question.set,
        "side": question.side,
        "probe": question.probe,
        "prompt": question.prompt,
        "expected": question.expected,
        "answer": each.answer,
        "outcome": each.outcome,
    }
    return row | {name: value for name, value in (("aliases", question.aliases), ("rules", each.ruled)) if value}


def _tell(judged: Sequence[Judged]) -> None:
    for each in judged:
        asked = each.question
        words = f"[{asked.side}] {asked.prompt}\n  expected: {asked.expected}\n  {each.outcome}: {each.answer}"
        console.print(words, soft_wrap=True, markup=False)
