"""Every method on twenty authors of TOFU: `python benchmarks/tofu20.py --tofu PATH [--only target] [--methods npo rmu]`.

PATH is a directory of TOFU's tables (`forget01.json`, `retain99.json`, `retain_perturbed.json`, `holdout05.json`, …). The
embedded model learns the two authors of `forget01` and the first eighteen of `retain99`, 400 questions; a second one, the
eighteen alone. Then every method makes the first forget the two, at a small grid of settings, and the best of each is audited.

Everything is kept in `--work` and nothing is done twice, so that it can be killed, run in parts (`--only`, `--methods`,
`--budget-minutes`) and run again. `--only target` and `--only retrained` may run side by side, and so may two runs of other
methods once one is audited. The table goes to `--results` as Markdown and JSON, the picture as SVG and, where Chromium is
there, PNG.

What is less than the benchmark's own: `--asked` questions of each retain author and `--forget-asked` of the others (not
twenty), of real authors and of world facts as many as `--facts` says, and three wrong answers beside each right one (not five).

Settings are chosen by what the run itself knows, without the retrained model: see `Arm.cost`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from expunge.audit.results import Audit
from expunge.examples import Example, read_rows, write_examples, write_rows
from expunge.methods import METHODS
from expunge.models import prepare_cpu
from expunge.recipes.audit import AUDIT, audit
from expunge.recipes.audit_config import AuditConfig
from expunge.recipes.demo import BY_HEART
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.runs import Run
from expunge.sources.ordinary import ordinary_evaluation
from expunge.sources.tofu import QUESTIONS_AN_AUTHOR, Tofu, make

WRONG = 3
UTILITY = 0.95
HOLDOUT = 2
"""Authors never trained on, as many as are forgotten."""
MEASURED = (
    *("extraction-strength", "exact-memorisation", "paraphrased-probability", "probability", "rouge-l-recall"),
    *("truth-ratio", "truth-ratio-near-one", "truth-ratio-true", "option-probability", "model-utility", "loss", "min-k-auc"),
    "forget-quality",
)
LEARNING: dict[str, Any] = {"batch_size": 2, **BY_HEART}
"""The demo's way to learn by heart, but two at a time."""
FORGETTING: dict[str, Any] = {
    "batch_size": 4,
    "micro_batch_size": 4,
    "steps": 40,
    "eval_steps": 6,
    "eval_examples": 8,
    "learning_rate": 1e-3,
}

GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "balanced-npo": ({"beta": 0.02, "retain_weight": 4.0}, {"beta": 0.05, "retain_weight": 2.0}),
    "npo": ({"beta": 0.02, "retain_weight": 4.0}, {"beta": 0.1}),
    "simnpo": ({"delta": 3.0}, {}),
    "undial": ({}, {"beta": 30.0}),
    "grad-diff": ({"retain_weight": 4.0}, {}),
    "wga": ({}, {"forget_weight": 0.3}),
    "idk-dpo": ({"beta": 0.02, "retain_weight": 4.0}, {}),
    "alt-po": ({"beta": 0.02, "retain_weight": 4.0}, {}),
    "rmu": ({"steering": 2.0, "retain_weight": 4.0}, {}),
    "ce-u": ({"retain_weight": 4.0}, {}),
    "kl-min": ({"retain_weight": 4.0}, {}),
    "satimp": ({"forget_weight": 4.0, "beta1": 1.0}, {"forget_weight": 10.0}, {}),
    "pdu": ({"forget_weight": 0.01}, {}),
    "gru": ({"beta": 0.02, "retain_weight": 4.0}, {"beta": 0.02}),
    "task-vector": ({},),
    "ssd": ({"selection": 1.5, "examples": 40}, {}),
    "whos-harry-potter": ({}, {"reinforce_steps": 40}),
    # Neither pushes the answer itself, so no number of steps brings it to the holdout's level.
    "idk-nll": ({"steps": 20}, {"forget_weight": 4.0}),
    "idk-ap": ({"steps": 20}, {"forget_weight": 4.0}),
    "grad-ascent": ({"learning_rate": 1e-4, "eval_steps": 2}, {}),
}
"""Settings to try beside `FORGETTING`, first what the arithmetic of the method says, then mostly the paper's; the names of a
method's own and those of `UnlearnConfig` do not clash.

Answers of fifty tokens known by heart must become some hundred nats less likely, so that NPO's push, which fades over 1 / beta
nats, wants a beta of .02; SimNPO's a margin where strangers are. The retain weight makes up for the forget side's larger
gradient once it is forgotten."""


class Arm(NamedTuple):
    """One method at one setting, and what became of it."""

    method: str
    settings: dict[str, Any]
    run: Run

    @property
    def name(self) -> str:
        """Of its directory."""
        return arm_name(self.method, self.settings)

    @property
    def minutes(self) -> float:
        """All that unlearning took, but loading the model."""
        return sum(seconds for name, seconds in self.run.manifest["seconds"].items() if name != "load") / 60

    @property
    def cost(self) -> float:
        """Nats a token by which the forget set is still better known than the holdout, and by which the retain set is worse."""
        rows = [row for row in self.run.results["trace"] if "holdout_loss" in row]
        known = rows[-1]["holdout_loss"] - rows[-1]["forget_loss"]
        return max(0.0, known) + max(0.0, rows[-1]["eval_retain_loss"] - rows[0]["eval_retain_loss"])


def main() -> None:
    """Do what is asked and not done yet, then write the table of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tofu", type=Path, required=True, help="directory of TOFU's tables")
    parser.add_argument("--work", type=Path, default=Path("runs/tofu20"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--only", choices=("target", "retrained", "methods", "table"))
    parser.add_argument("--methods", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--grid", choices=("first", "all"), default="all", help="how many settings of each method")
    parser.add_argument("--audit-all", action="store_true", help="audit every setting, not only each method's best")
    parser.add_argument("--budget-minutes", type=float, default=math.inf, help="begin nothing new after so many")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--kept", type=int, default=18, help="authors who stay; fewer make a trial")
    parser.add_argument("--asked", type=int, default=2, help="retain questions an author")
    parser.add_argument("--forget-asked", type=int, default=QUESTIONS_AN_AUTHOR, help="forget and holdout questions an author")
    parser.add_argument("--steps", type=int, default=FORGETTING["steps"], help="of unlearning, at most")
    parser.add_argument("--facts", type=int, default=20, help="questions about real authors, and about the world")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.budget_minutes
    prepare_cpu(options.threads)
    write_sets(options)
    for name in ("target", "retrained"):
        if options.only in (None, name):
            learn(options, name)
    if options.only in (None, "methods"):
        for method in options.methods:
            arms = [arm for settings in grid(options, method) if (arm := forget(options, method, settings, end))]
            # One method to its end before the next begins: what a run that is cut short leaves is a shorter table.
            for arm in arms if options.audit_all else sorted(arms, key=lambda arm: arm.cost)[:1]:
                judge(options, arm)
    if options.only in (None, "methods", "table"):
        report(options)


def grid(options: argparse.Namespace, method: str) -> Sequence[dict[str, Any]]:
    """The settings of a method to try."""
    return GRID[method][:1] if options.grid == "first" else GRID[method]


def write_sets(options: argparse.Namespace) -> None:
    """The twenty authors through the `tofu` source, and of what is only asked about a part."""
    place = options.work / "data"
    if (place / "done").exists():
        return
    tables = options.work / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    kept = QUESTIONS_AN_AUTHOR * options.kept
    write_rows(tables / "full.json", [*rows(options.tofu / "retain99.json")[:kept], *rows(options.tofu / "forget01.json")])
    write_rows(tables / "holdout10.json", rows(options.tofu / "holdout05.json")[: HOLDOUT * QUESTIONS_AN_AUTHOR])
    for name, source in (("retain_perturbed", "retain_perturbed"), ("forget10_perturbed", "forget01_perturbed")):
        write_rows(tables / f"{name}.json", [fewer_wrong(row) for row in rows(options.tofu / f"{source}.json")])
    for name in ("real_authors", "world_facts"):
        shutil.copy(options.tofu / f"{name}.json", tables)
        facts = rows(options.tofu / f"{name}_perturbed.json")[: options.facts]
        write_rows(tables / f"{name}_perturbed.json", [fewer_wrong(row) for row in facts])
    material = make(Tofu(input=str(tables)), sample=None, seed=0)
    authors = material.line.subjects
    forgotten, stay = authors[:2], authors[2:]
    holdout = material.sets["holdout"]
    strangers = [holdout[first : first + QUESTIONS_AN_AUTHOR] for first in range(0, len(holdout), QUESTIONS_AN_AUTHOR)]
    sets = {
        "forget": [example for author in forgotten for example in author],
        "retain": [example for author in stay for example in author],
        "retain_asked": asked(stay, options.asked),
        "forget_asked": asked(forgotten, options.forget_asked),
        "holdout": asked(strangers, options.forget_asked),
        # What the run stops at is measured often.
        "holdout_stop": asked(strangers, QUESTIONS_AN_AUTHOR // 2),
        "ordinary": ordinary_evaluation()[:8],
    }
    for name, examples in sets.items():
        write_examples(place / f"{name}.jsonl", examples)
    for file, lines in material.files(sets).items():
        write_rows(place / file, lines)
    (place / "done").touch()


def asked(authors: Sequence[Sequence[Example]], count: int) -> list[Example]:
    """So many questions of each author, spread over the twenty: the first are all about names and places of birth."""
    numbers = [(2 * number + 1) * QUESTIONS_AN_AUTHOR // (2 * count) for number in range(count)]
    return [author[number] for author in authors for number in numbers]


def rows(path: Path) -> list[dict[str, Any]]:
    """Of JSON lines or of an array."""
    return [row.value for row in read_rows(path)]


def fewer_wrong(row: dict[str, Any]) -> dict[str, Any]:
    """A row with some of its wrong answers."""
    return {**row, "perturbed_answer": row["perturbed_answer"][:WRONG]}


def data(options: argparse.Namespace, name: str) -> Path:
    """The file of a set."""
    return Path(options.work / "data" / f"{name}.jsonl")


def learn(options: argparse.Namespace, name: str) -> None:
    """The target, or the reference that never saw the two."""
    files = [data(options, set_) for set_ in ("forget", "retain")]
    finetune(
        FinetuneConfig(
            data_file=tuple(files if name == "target" else files[1:]),
            output=options.work / name,
            model=options.model,
            epochs=options.epochs,
            **LEARNING,
            checkpoint_steps=100,
            keep_checkpoints=0,
            dtype=options.dtype,
            seed=options.seed,
            threads=options.threads,
        )
    )


def arm_name(method: str, settings: dict[str, Any]) -> str:
    """Of the directory of a method at a setting."""
    return "-".join([method, *(f"{name}={value:g}" for name, value in sorted(settings.items()))])


def forget(options: argparse.Namespace, method: str, settings: dict[str, Any], end: float) -> Arm | None:
    """Unlearn; None when the time is up."""
    place = options.work / "arms" / arm_name(method, settings)
    if time.monotonic() > end and not (place / "model").exists():
        return None
    own = {name: value for name, value in settings.items() if name in METHODS[method].config.__dataclass_fields__}
    common = {**FORGETTING, "steps": options.steps, **{name: value for name, value in settings.items() if name not in own}}
    config = UnlearnConfig(
        model=str(options.work / "target" / "model"),
        forget=data(options, "forget"),
        retain=data(options, "retain"),
        holdout=data(options, "holdout_stop"),
        output=place,
        dtype=options.dtype,
        seed=options.seed,
        threads=options.threads,
        **common,
    )
    return Arm(method, settings, unlearn(config, method, METHODS[method].config(**own)))


def judge(options: argparse.Namespace, arm: Arm) -> None:
    """Audit it beside target and retrained; what those two answered is shared by all audits."""
    audit(
        AuditConfig(
            target=str(options.work / "target" / "model"),
            unlearned=str(arm.run.path / "model"),
            retrained=str(options.work / "retrained" / "model"),
            forget=data(options, "forget_asked"),
            retain=data(options, "retain_asked"),
            holdout=data(options, "holdout"),
            ordinary=data(options, "ordinary"),
            set=tuple(f"{name}={data(options, name)}" for name in ("real_authors", "world_facts")),
            metrics=MEASURED,
            output=options.work / "audits" / arm.name,
            evidence=options.work / "evidence",
            seed=options.seed,
            threads=options.threads,
        )
    )


class Row(NamedTuple):
    """What the table says of a model."""

    name: str
    settings: str
    forget: dict[str, float]
    """Metrics of the forget set."""
    errors: dict[str, float]
    """Half a 95% interval of each that is a mean over questions, as if these were independent."""
    utility: dict[str, float]
    """Of `retain`, `real_authors` and `world_facts` the harmonic mean of TOFU's three numbers; `all` of all nine, and `kept` as
    a share of the target's."""
    strangers: float
    """Distance from people never trained on, see `from_strangers`."""
    retrained: float
    """Distance from the retrained model, see `from_retrained`."""
    steps: int
    minutes: float


COLUMNS = {
    "extraction-strength": "extraction strength",
    "exact-memorisation": "exact memorisation",
    "probability": "probability",
    "paraphrased-probability": "paraphrased",
    "rouge-l-recall": "ROUGE-L recall",
    "truth-ratio": "truth ratio",
    "min-k-auc": "Min-K% AUC",
}
QUALITY = "forget-quality"
LETTER_WIDTH, NAME_HEIGHT = 6.0, 14
_COMPARED = ("extraction-strength", "exact-memorisation", "probability")


def report(options: argparse.Namespace) -> None:
    """The table and the picture of all that was audited."""
    found: list[Row] = []
    for method in GRID:
        for settings in GRID[method]:
            name = arm_name(method, settings)
            place = options.work / "audits" / name
            if not (place / AUDIT).exists():
                continue
            audited, run = Audit.read(place / AUDIT), Run.read(options.work / "arms" / name)
            if not found:
                for role in ("target", "retrained"):
                    learnt = Run.read(options.work / role)
                    found.append(row(audited, role, role, "", learnt, learnt.manifest["seconds"]["train"] / 60))
            found.append(row(audited, "unlearned", method, as_words(settings), run, Arm(method, {}, run).minutes))
    if not found:
        print("nothing is audited yet")
        return
    table = as_table(found)
    print(table)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "tofu20.md").write_text(f"{conditions(options)}\n\n{table}", "utf-8")
    lines = [json.dumps(each._asdict()) for each in found]
    (options.results / "tofu20.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    draw(found, options.results / "tofu20.svg")


def as_words(settings: dict[str, Any]) -> str:
    """As on a command line, without its dashes."""
    return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in settings.items())


def conditions(options: argparse.Namespace) -> str:
    """What the table is of, in Markdown."""
    names = ("forget", "forget_asked", "retain", "retain_asked", "holdout", "real_authors", "world_facts")
    sizes = {name: len(rows(data(options, name))) for name in names}
    return (
        f"TOFU, 2 authors to forget ({sizes['forget']} questions, {sizes['forget_asked']} asked) and {options.kept} who "
        f"stay ({sizes['retain']}, {sizes['retain_asked']} asked); {sizes['holdout']} questions about {HOLDOUT} authors never "
        f"trained on; {sizes['real_authors']} about real authors and {sizes['world_facts']} about the world. Model "
        f"`{options.model}`, {options.epochs} epochs, {options.dtype}, one seed. Unlearning: at most {options.steps} steps of "
        f"{FORGETTING['batch_size']} + {FORGETTING['batch_size']} questions, learning rate {FORGETTING['learning_rate']:g}, "
        "stopped at the holdout's loss; other settings are in the second column, the rest are each method's defaults. ±: 95% "
        "over the questions, as if they were independent. From strangers, from retrained: 0 is best. Minutes are of one busy "
        "core."
    )


def row(audited: Audit, role: str, name: str, settings: str, run: Run, minutes: float) -> Row:
    """A model of an audit."""

    def value(metric: str, set_: str, model: str = role) -> float:
        score = audited.score(metric, model, set_)
        assert score is not None, (metric, model, set_)
        return score.value

    utility = {}
    for set_, chance in (
        ("retain", "probability"),
        ("real_authors", "option-probability"),
        ("world_facts", "option-probability"),
    ):
        numbers = [value(metric, set_) for metric in (chance, "rouge-l-recall", "truth-ratio-true")]
        utility[set_] = 3 / sum(1 / max(number, 1e-9) for number in numbers)
    utility["all"] = value("model-utility", "utility")
    # A model that knows nothing, as in a trial, has none.
    utility["kept"] = utility["all"] / max(value("model-utility", "utility", "target"), 1e-9)
    forget = {metric: value(metric, "forget") for metric in (*COLUMNS, "truth-ratio-near-one", "loss")}
    reference = {metric: value(metric, "forget", "retrained") for metric in forget}
    # A distribution held against the retrained model's, which has none of its own.
    forget |= {} if role == "retrained" else {QUALITY: value(QUALITY, "forget")}
    strangers = {metric: value(metric, "holdout") for metric in _COMPARED}
    errors = {}
    for metric in COLUMNS:
        score = audited.score(metric, role, "forget")
        values = [each for each in score.values if not math.isnan(each)] if score else []
        if len(values) > 1:
            errors[metric] = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    distances = from_strangers(forget, strangers), from_retrained(forget, reference)
    return Row(name, settings, forget, errors, utility, *distances, run.results["steps"], minutes)


def from_strangers(forget: dict[str, float], holdout: dict[str, float]) -> float:
    """How far the forget set is from people never trained on, under the same model: 0 (nothing tells them apart) to 1.

    The mean of the differences of extraction strength, exact memorisation and probability, and of how far the Min-K% AUC is
    from a coin's. Needs no retrained model.
    """
    differences = [abs(forget[metric] - holdout[metric]) for metric in _COMPARED]
    return (sum(differences) + abs(2 * forget["min-k-auc"] - 1)) / (len(_COMPARED) + 1)


def from_retrained(forget: dict[str, float], retrained: dict[str, float]) -> float:
    """How far the forget set is from where the retrained model has it: 0 (all metrics of the table agree) to 1, their mean."""
    # Where R itself has no bound, min(R, 1/R) is compared.
    compared = [metric if metric != "truth-ratio" else "truth-ratio-near-one" for metric in COLUMNS]
    return sum(abs(forget[metric] - retrained[metric]) for metric in compared) / len(compared)


def as_table(found: list[Row]) -> str:
    """In Markdown, the methods by how near they come to strangers; those that lost too much utility last."""
    references, methods = found[:2], found[2:]
    methods.sort(key=lambda each: (each.utility["kept"] < UTILITY, each.strangers))
    head = ["", "settings", *COLUMNS.values(), "forget quality", "utility: retain", "real authors", "world facts"]
    head += ["of the target's", "from strangers", "from retrained", "steps", "minutes"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for each in [*references, *methods]:
        cells = [each.name, each.settings, *(as_cell(each, metric) for metric in COLUMNS)]
        cells += [f"{each.forget[QUALITY]:.2g}" if QUALITY in each.forget else ""]
        cells += [f"{each.utility[set_]:.3f}" for set_ in ("retain", "real_authors", "world_facts")]
        cells += [f"{each.utility['kept']:.0%}", f"{each.strangers:.3f}", f"{each.retrained:.3f}"]
        cells += [str(each.steps), f"{each.minutes:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_cell(each: Row, metric: str) -> str:
    """A metric of the forget set, with its interval where it has one."""
    error = each.errors.get(metric, 0.0)
    return f"{each.forget[metric]:.2f}" + (f" ±{error:.2f}" if error >= 0.005 else "")


def draw(found: list[Row], path: Path) -> None:
    """Utility on the authors who stay against distance from strangers, both better towards the upper left.

    The undominated are joined.
    """
    left, right, top, bottom, widest = 60.0, 640.0, 40.0, 420.0, max(1e-9, *(each.strangers for each in found)) * 1.08
    lowest = min(each.utility["retain"] for each in found) - 0.03
    highest = max(each.utility["retain"] for each in found) + 0.02

    def x(strangers: float) -> float:
        return left + (right - left) * strangers / widest

    def y(kept: float) -> float:
        return bottom - (bottom - top) * (kept - lowest) / (highest - lowest)

    best = sorted((each for each in found[2:] if not dominated(each, found[2:])), key=lambda each: each.strangers)
    joined = "L".join(f"{x(each.strangers):.1f} {y(each.utility['retain']):.1f}" for each in best)
    bar = y(UTILITY * found[0].utility["retain"])
    parts = [
        '<text x="60" y="22" font-weight="600">TOFU: what is known of those who stay, and what gives the forgotten away</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#586069"/>',
        f'<path d="M{left} {bar}H{right}" stroke="#586069" stroke-dasharray="4 3"/>',
        f'<text x="{(left + right) / 2}" y="{bottom + 34}" text-anchor="middle">distance from people never trained on</text>',
        f'<text x="16" y="{(top + bottom) / 2}" text-anchor="middle" transform="rotate(-90 16 {(top + bottom) / 2})">'
        "utility on the authors who stay</text>",
        f'<path d="M{joined}" fill="none" stroke="#b3450c" opacity=".5"/>',
    ]
    for tick in range(math.ceil(20 * lowest), math.floor(20 * highest) + 1):
        parts.append(f'<text x="{left - 6}" y="{y(tick / 20) + 4:.1f}" text-anchor="end">{tick / 20:.2f}</text>')
    for tick in range(math.floor(10 * widest) + 1):
        parts.append(f'<text x="{x(tick / 10):.1f}" y="{bottom + 16}" text-anchor="middle">{tick / 10:.1f}</text>')
    # No name lies on another, or on a point: to the right if there is room, else elsewhere around the point.
    taken = [_Box(x(each.strangers) - 5, y(each.utility["retain"]) - 5, 10, 10) for each in found]
    for each in sorted(found, key=lambda each: y(each.utility["retain"])):
        colour = "#1858b8" if each in found[:2] else "#b3450c" if each in best else "#7d8590"
        across, down, wide = x(each.strangers), y(each.utility["retain"]), LETTER_WIDTH * len(each.name)
        places = [_Box(across + 7, down - 8, wide, NAME_HEIGHT), _Box(across - 7 - wide, down - 8, wide, NAME_HEIGHT)]
        places += [_Box(across - wide / 2, down + step * 8 - 8, wide, NAME_HEIGHT) for step in (-2, 2, -3, 3)]
        inside = (place for place in places if place.left > left)
        box = next((place for place in inside if not any(place.meets(other) for other in taken)), places[0])
        taken.append(box)
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{box.left:.1f}" y="{box.top + 12:.1f}" fill="{colour}">{escape(each.name)}</text>')
    style = 'font: 12px "Liberation Sans", Arial, sans-serif; background: #fff'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="470" style=\'{style}\'>{"".join(parts)}</svg>\n', "utf-8"
    )
    if browser := shutil.which("chromium"):
        shot = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=760,470", "--force-device-scale-factor=2"]
        picture = path.with_suffix(".png").resolve()
        subprocess.run([browser, *shot, f"--screenshot={picture}", path.resolve().as_uri()], check=True, capture_output=True)


class _Box(NamedTuple):
    """Where a name or a point lies in the picture."""

    left: float
    top: float
    width: float
    height: float

    def meets(self, other: _Box) -> bool:
        """Whether they overlap."""
        apart_across = self.left + self.width < other.left or other.left + other.width < self.left
        return not (apart_across or self.top + self.height < other.top or other.top + other.height < self.top)


def dominated(one: Row, others: Sequence[Row]) -> bool:
    """Whether another is nearer to strangers and keeps more."""
    return any(other.strangers < one.strangers and other.utility["retain"] > one.utility["retain"] for other in others)


if __name__ == "__main__":
    main()
