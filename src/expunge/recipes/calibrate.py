"""`expunge audit calibrate`: does the audit itself work? Its metrics, on models of which it is known what they saw.

Pools of small models are taught notes of people who do not exist, at several learning rates and for several lengths: some the
notes that are asked about, some as many other notes instead. A few that know are made to forget, taught once more, and rounded
to 4 bits. Each is audited as the `unlearned` model of an ordinary audit, so whatever an audit measures is calibrated.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, write_examples, write_rows
from expunge.files import directory_written_atomically, written_atomically
from expunge.progress import console
from expunge.recipes.audit import AUDIT, audit
from expunge.recipes.audit_config import AuditConfig
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.runs import Run, check_place, settings_of

if TYPE_CHECKING:
    from expunge.audit.calibration import Reliability
    from expunge.audit.results import Audit, Score
    from expunge.sources.medical import Note

TABLE, PLOT = "calibration.jsonl", "calibration.svg"
_BATCH = 2
_ORDINARY = 4
"""Paragraphs of ordinary text, for perplexity."""
_WRONG = 3
"""Wrong answers beside each right one."""
_ANSWER, _EXAMPLE = 75, 115
"""About how many tokens a note has alone, and with its question."""
_FORGETTING = 12
"""About how many steps it takes to forget."""


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """How large the pools are, and what they are taught."""

    output: Path = Path("runs/calibration")
    """Run directory; the table goes to its `calibration.jsonl`, the picture to `calibration.svg`."""
    model: str = "embedded"
    """The model that is taught: `embedded`, a Hub id or a model directory."""
    people: int = 4
    """People in each of four sets: asked about, taught to all, taught instead, and never taught."""
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)
    """Rates at which models are taught, with an adapter; the last one makes the models that are to forget."""
    epochs: tuple[int, ...] = (2, 4, 6, 8)
    """How often models have seen every note when they are audited."""
    seeds: int = 1
    """Trainings of each rate, which differ in the adapter's start and the order of the notes."""
    methods: tuple[str, ...] = ("grad-diff", "npo", "balanced-npo")
    """Ways in which those that know are made to forget."""
    unlearning_rate: float = 6e-4
    """Learning rate of the unlearning; it stops where people never taught are."""
    keep_models: bool = False
    """Keep every model, so that metrics to come are measured without training again. They go when they are audited if not."""
    seed: int = 0
    """Fixes the notes and what is learnt."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""
    dry_run: bool = False
    """Say how many models and about how much time it takes, and write nothing."""

    @property
    def steps_an_epoch(self) -> int:
        """Of the training of a pool, which learns two of the sets."""
        return -(-2 * self.people // _BATCH)

    def check(self) -> None:
        """Refuse what means nothing.

        Raises:
            ExpungeError: the first such setting.
        """
        from expunge.methods import METHODS
        from expunge.training.objective import Need

        at_least(2, people=self.people)
        at_least(1, seeds=self.seeds, threads=self.threads, **{f"epochs[{i}]": each for i, each in enumerate(self.epochs)})
        at_least(0, seed=self.seed, unlearning_rate=self.unlearning_rate)
        if not (self.learning_rates and self.epochs and self.methods):
            raise ExpungeError("there is nothing to compare", remedy="name a learning rate, a number of epochs and a method")
        for name in self.methods:
            if Need.IMPACT in METHODS[name].needs:
                raise ExpungeError(f"{name} needs a ledger, and these models have none", remedy="leave it out of --methods")


class _Training(NamedTuple):
    side: str
    """`with` the facts or `without`."""
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.side}-{self.rate:g}-{self.seed}"


class _Stage(NamedTuple):
    """One piece of the work: it does nothing if its outcome is there."""

    words: str
    seconds: float
    """About how long it takes."""
    work: Callable[[], None]
    done: Callable[[], bool]


def calibrate(config: CalibrateConfig) -> Run:
    """Teach, audit, and see which metrics tell; resumes if killed, answers at once if done."""
    from expunge.audit.calibration import as_rows
    from expunge.models import check_readable, model_fingerprint

    config.check()
    check_readable(config.model)
    if config.dry_run:
        return _dry_run(config)
    settings = settings_of(config, without=("output", "model", "threads", "keep_models", "dry_run"))
    with Run.open(config.output, "audit calibrate", settings, {"model": model_fingerprint(config.model)}) as run:
        if not run.finished:
            _write_sets(config, run.path)
            pools = _Pools(config, run.path, _speed(config))
            with run.timed("calibrate"):
                _go_through(pools.stages())
            table = pools.reliabilities()
            _write_table(run.path, table)
            if not config.keep_models:
                shutil.rmtree(pools.models, ignore_errors=True)
            run.finish({TABLE: "", PLOT: ""}, metrics=as_rows(table))
        return run


class _Pools:
    """The models by name, where they are, and what makes and audits them."""

    def __init__(self, config: CalibrateConfig, path: Path, speed: _Speed) -> None:
        self._config, self._path, self._speed = config, path, speed
        self.models = path / "models"
        self._trainings = [
            _Training(side, rate, seed)
            for seed in range(config.seeds)
            for rate in reversed(config.learning_rates)
            for side in ("with", "without")
        ]
        # Every audit holds on to their ends, so they are taught first and stay.
        self._target, self._retrained = self._trainings[:2]

    def stages(self) -> list[_Stage]:
        """Everything there is to do, in order."""
        lasting, others = self._trainings[:2], self._trainings[2:]
        found = [self._teaching(training, self._all_audited) for training in lasting]
        for training in lasting:
            found += [self._audit(name, model) for name, model in self._moments(training).items()]
        for training in others:
            moments = self._moments(training)
            found.append(self._teaching(training, partial(self._audited, *moments)))
            *first, last = [self._audit(name, model) for name, model in moments.items()]
            found += [*first, self._and_drop(last, self.models / training.name)]
        found += self._taught("retrained", self._end(self._retrained))
        for method in self._config.methods:
            unlearned, rounded = self.models / method, self.models / f"{method}-4-bit"
            done = partial(self._audited, method, f"{method}-relearned", rounded.name)
            found.append(self._unlearning(method, done))
            found.append(self._audit(method, unlearned / "model"))
            found += self._taught(method, unlearned / "model")
            found.append(
                _Stage(
                    f"rounding {method} to 4 bits",
                    2.0,
                    partial(_round, unlearned / "model", rounded),
                    partial(self._audited, rounded.name),
                )
            )
            found.append(self._and_drop(self._audit(rounded.name, rounded), rounded))
        return found

    def reliabilities(self) -> list[Reliability]:
        """Every metric that all audits have on the forget set, the most faithful first."""
        from expunge.audit.calibration import Pool, Tried, reliability
        from expunge.audit.results import Audit
        from expunge.metrics import METRICS

        def audits(*names: str) -> list[Audit]:
            return [Audit.read(self._path / "audits" / name / AUDIT) for name in names]

        sides = {
            side: [name for training in self._trainings if training.side == side for name in self._moments(training)]
            for side in ("with", "without")
        }
        # The reference is no witness of its own: its distance from itself is none.
        (*_, reference) = self._moments(self._retrained)
        sides["without"].remove(reference)
        knowing, ignorant = audits(*sides["with"]), audits(*sides["without"])
        ends = audits(reference, "retrained-relearned")
        methods = [audits(name, f"{name}-relearned", f"{name}-4-bit") for name in self._config.methods]
        table = []
        for metric in METRICS:
            known, unknown, reference_ends = (_scores(metric, each) for each in (knowing, ignorant, ends))
            tried = [_scores(metric, each) for each in methods]
            if known and unknown and reference_ends and all(tried):
                around = [Tried(*three, *reference_ends) for three in tried]
                table.append(reliability(metric, Pool(known, unknown), around))
        return sorted(table, key=lambda row: (-row.auc, row.metric))

    def _moments(self, training: _Training) -> dict[str, Path]:
        """When a training is audited: what the audit is called, and where the model is as it was then; the last moment last."""
        return {
            f"{training.name}-{epochs}": self.models / training.name / f"checkpoint-{epochs * self._config.steps_an_epoch}"
            for epochs in sorted({*self._config.epochs})
        }

    def _end(self, training: _Training) -> Path:
        return self.models / training.name / "model"

    # ---- what makes models ----

    def _teaching(self, training: _Training, done: Callable[[], bool]) -> _Stage:
        config, data = self._config, self._path / "data"

        def work() -> None:
            finetune(
                FinetuneConfig(
                    data_file=(data / "retain.jsonl", data / ("forget.jsonl" if training.side == "with" else "others.jsonl")),
                    output=self.models / training.name,
                    model=config.model,
                    epochs=max(config.epochs),
                    batch_size=_BATCH,
                    learning_rate=training.rate,
                    # So that a model of few epochs is the beginning of one of many.
                    schedule="constant",
                    checkpoint_steps=config.steps_an_epoch * math.gcd(*config.epochs),
                    keep_checkpoints=max(config.epochs),
                    seed=config.seed + training.seed,
                    threads=config.threads,
                )
            )

        what = "the facts" if training.side == "with" else "others instead"
        seconds = self._speed.training(2 * config.people * max(config.epochs))
        return _Stage(f"teaching a model {what} at {training.rate:g}", seconds, work, done)

    def _unlearning(self, method: str, done: Callable[[], bool]) -> _Stage:
        config, data = self._config, self._path / "data"

        def work() -> None:
            from expunge.methods import METHODS
            from expunge.methods.balanced_npo import BalancedNpo

            # Notes learnt by heart are hundreds of nats more likely than a stranger's, where the usual beta stops half-way.
            settings = BalancedNpo(beta=0.015, retain_weight=4.0) if method == "balanced-npo" else METHODS[method].config()
            unlearn(
                UnlearnConfig(
                    model=str(self._end(self._target)),
                    forget=data / "forget.jsonl",
                    retain=data / "retain.jsonl",
                    holdout=data / "holdout.jsonl",
                    output=self.models / method,
                    learning_rate=config.unlearning_rate,
                    seed=config.seed,
                    threads=config.threads,
                ),
                method,
                settings,
            )

        seconds = self._speed.training(8 * _FORGETTING) + self._speed.scoring(2 * config.people * _FORGETTING // 2)
        return _Stage(f"unlearning with {method}", seconds, work, done)

    def _taught(self, name: str, model: Path) -> list[_Stage]:
        """One more epoch on the facts, at the rate at which the target was taught them; and what that brings back."""
        config, relearned = self._config, self.models / f"{name}-relearned"

        def work() -> None:
            finetune(
                FinetuneConfig(
                    data_file=(self._path / "data" / "forget.jsonl",),
                    output=relearned,
                    model=str(model),
                    epochs=1,
                    batch_size=_BATCH,
                    learning_rate=config.learning_rates[-1],
                    schedule="constant",
                    seed=config.seed,
                    threads=config.threads,
                )
            )

        stage = _Stage(
            f"{name} learns the facts for an epoch",
            self._speed.training(config.people),
            work,
            partial(self._audited, relearned.name),
        )
        return [stage, self._and_drop(self._audit(relearned.name, relearned / "model"), relearned)]

    # ---- audits ----

    def _audit(self, name: str, model: Path) -> _Stage:
        config, data = self._config, self._path / "data"

        def work() -> None:
            audit(
                AuditConfig(
                    target=str(self._end(self._target)),
                    retrained=str(self._end(self._retrained)),
                    unlearned=str(model),
                    forget=data / "forget.jsonl",
                    retain=data / "retain.jsonl",
                    holdout=data / "holdout.jsonl",
                    ordinary=data / "ordinary.jsonl",
                    output=self._path / "audits" / name,
                    evidence=self._path / "evidence",
                    seed=config.seed,
                    threads=config.threads,
                )
            )

        seconds = self._speed.scoring(3 * config.people) + self._speed.answering(2 * config.people)
        return _Stage(f"auditing {name}", seconds, work, partial(self._audited, name))

    def _audited(self, *names: str) -> bool:
        return all((self._path / "audits" / name / AUDIT).exists() for name in names)

    def _all_audited(self) -> bool:
        return all(stage.done() for stage in self.stages()[2:])

    def _and_drop(self, stage: _Stage, model: Path) -> _Stage:
        """The stage, after which a model is needed no more."""

        def work() -> None:
            stage.work()
            if not self._config.keep_models:
                shutil.rmtree(model, ignore_errors=True)

        return stage._replace(work=work)


class _Speed(NamedTuple):
    """What this machine does, in seconds, reckoned from its rate of multiplying."""

    flops_per_second: float
    linear: int
    head: int
    """Weights that every token, and every labelled token, is multiplied with."""
    parameters: int

    def training(self, examples: int) -> float:
        # Forward, and backward through activations and adapters.
        return examples * 2 * 2.2 * (_EXAMPLE * self.linear + _ANSWER * self.head) / self.flops_per_second

    def scoring(self, examples: int) -> float:
        return examples * 2 * (_EXAMPLE * self.linear + _ANSWER * self.head) / self.flops_per_second

    def answering(self, examples: int) -> float:
        # A token of all answers reads every weight once, at about a tenth of the rate of multiplying many.
        return examples * _ANSWER * 2 * self.parameters * 4 / self.flops_per_second


def _speed(config: CalibrateConfig) -> _Speed:
    from expunge.models import model_shape, prepare_cpu
    from expunge.training.cost import matmul_rate

    prepare_cpu(config.threads)
    shape = model_shape(config.model)
    # Of the rate of plain multiplication, batches of two notes reach a little under half.
    return _Speed(
        0.45 * matmul_rate(shape.hidden, dtype="float32"), shape.linear, shape.vocabulary * shape.hidden, shape.parameters
    )


def _dry_run(config: CalibrateConfig) -> Run:
    check_place(config.output)
    stages = _Pools(config, config.output, _speed(config)).stages()
    models = sum(stage.words.startswith("auditing") for stage in stages)
    results = {"models": models, "about seconds": round(sum(stage.seconds for stage in stages))}
    return Run(config.output, {"state": "dry run", "outputs": {}, "results": results})


def _go_through(stages: Sequence[_Stage]) -> None:
    """Do what is not done, and say before each how much is left, corrected by how long those before took."""
    expected, spent = 0.0, 0.0
    for number, stage in enumerate(stages, 1):
        if stage.done():
            continue
        left = stage.seconds + sum(later.seconds for later in stages[number:] if not later.done())
        # Until minutes are behind, what was reckoned counts beside what was seen.
        minutes = left * (spent + 60) / (expected + 60) / 60
        console.print(f"[bold]{number} of {len(stages)}, about {minutes:.0f} min left: {stage.words}[/bold]")
        start = time.monotonic()
        stage.work()
        expected, spent = expected + stage.seconds, spent + time.monotonic() - start


def _write_sets(config: CalibrateConfig, path: Path) -> None:
    """Notes of people who do not exist, in four sets, the first with wrong and retold answers; and a little ordinary text."""
    from expunge.sources.medical import example_of, generate_notes
    from expunge.sources.ordinary import ordinary_evaluation

    made = generate_notes(4 * config.people + _WRONG, config.seed)
    notes, strangers = iter(made[:-_WRONG]), made[-_WRONG:]
    for name in ("forget", "retain", "others", "holdout"):
        examples = [example_of(note) for note in islice(notes, config.people)]
        if name == "forget":
            examples = [_with_others(example, strangers) for example in examples]
        write_examples(path / "data" / f"{name}.jsonl", examples)
    write_examples(path / "data" / "ordinary.jsonl", ordinary_evaluation()[:_ORDINARY])


def _with_others(example: Example, strangers: Sequence[Note]) -> Example:
    """The same facts in another order; and what is said of others, said of this person."""
    from expunge.sources.medical import example_of

    retold = "\n".join(reversed(example.response.split("\n")))
    wrong = [example_of(replace(each, client_name=example.subject)).response for each in strangers]
    return replace(example, metadata=example.metadata | {"paraphrased_answer": retold, "perturbed_answer": wrong})


def _write_table(path: Path, table: list[Reliability]) -> None:
    from expunge.audit.calibration import as_rows
    from expunge.report.calibration_plot import calibration_plot

    write_rows(path / TABLE, as_rows(table))
    with written_atomically(path / PLOT) as stream:
        stream.write(calibration_plot(table))


def _round(adapter: Path, output: Path) -> None:
    """The model with its weights rounded to what 4 bits can hold."""
    from expunge.models import load_model, load_tokenizer, save_trained
    from expunge.models.rounding import round_layers_to_4_bits

    if output.exists():
        return
    model: Any = load_model(adapter)
    tokenizer = load_tokenizer(adapter)
    with directory_written_atomically(output) as scratch:
        save_trained(round_layers_to_4_bits(model.merge_and_unload()), scratch)
        tokenizer.save_pretrained(scratch)


def _scores(metric: str, audits: Sequence[Audit]) -> list[Score]:
    """The metric of each audited model on the forget set; nothing at all unless every one of them has it."""
    found = [audit.score(metric, "unlearned", "forget") for audit in audits]
    scores = [score for score in found if score is not None and math.isfinite(score.value)]
    return scores if len(scores) == len(audits) else []
