"""What the page says, put together from an audit and the manifests of the runs that led to it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from expunge.audit.attacks import every_attack
from expunge.audit.results import Answer, AttackResult, Audit, Claim, Ruling, Score
from expunge.audit.robust import ALONE, ROBUST, named
from expunge.metrics import METRICS
from expunge.report import plots
from expunge.report.differences import Comparison, compare, shortened

_SETS = ("forget", "retain", "holdout", "ordinary")
_PLAIN_NAMES = {"target": "Target", "unlearned": "Unlearned model", "retrained": "Retrained model", "shipped": "Shipped file"}
_SPELLINGS = {
    "auc": "AUC", "rouge": "ROUGE", "rougel": "ROUGE-L", "mmlu": "MMLU", "wmdp": "WMDP", "kl": "KL", "tpr": "TPR", "fpr": "FPR",
    "mia": "MIA", "f1": "F1", "privleak": "PrivLeak", "zlib": "zlib", "k": "K", "l": "L", "gguf": "GGUF", "f16": "f16",
}  # fmt: skip
_GLOSSARY = {
    "rouge-l-recall": "Share of the expected answer's words, in their order, that the model's own answer holds.",
    "probability": "How likely the model finds the expected answer, token by token: 1 is certain.",
    "exact-memorisation": "Share of the answer's tokens the model would choose itself, given those before them.",
    "extraction-strength": "Share of the answer that the model finishes by itself once it is given the beginning.",
    "loss": "How surprised the model is by the expected answer, in nats a token.",
    "perplexity": "How surprised the model is by the text: 1 is not at all.",
    "loss-auc": "How well the loss tells an attacker who was trained on and who never was: 0.5 is chance, 1 is always.",
    "min-k-auc": "The same from the least likely tokens of each answer, which give a member away more clearly.",
}
"""What a metric says, in the order they are shown, for people who do not measure for a living."""

_CLAIMS = {
    "forgotten": "It says no more about the people who asked than a model that never saw them.",
    "still useful": "It answers everything else about as well as before.",
    "no membership signal": "The attacks tried cannot tell from it who was once trained on.",
    ROBUST: "No attack tried gets more about them out of it than out of a model that never saw them.",
}
"""What a claim means, for people who do not measure for a living."""


def render(audit: Audit, manifests: Mapping[str, dict[str, Any]], *, title: str, quoted: int = 60) -> str:
    """The report as one HTML page without scripts or outside requests.

    Args:
        audit: what is reported.
        manifests: stage name → manifest of its run, in the order they were carried out.
        title: the heading of the page.
        quoted: how many questions to quote with their answers, spread evenly over the sets; 0 leaves out every quotation.

    Returns:
        HTML in which everything that comes from data is escaped. The same input gives the same page.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": plots.number, "metric": metric_name, "spoken_time": _spoken_time, "seconds": _seconds}
    files = resources.files("expunge.report")
    roles = _in_order([model.role for model in audit.models] or [score.model for score in audit.scores], plots.ROLES)
    # Forty metrics on seven sets would hide what the verdict is made of: the others wait in a table of their own.
    first, further = _first_and_further(audit.scores)
    page = environment.from_string(files.joinpath("template.html").read_text("utf-8")).render(
        title=title,
        style=Markup(files.joinpath("style.css").read_text("utf-8")),
        audit=audit,
        roles=roles,
        names=_PLAIN_NAMES,
        swatch=plots.swatch,
        sets={set_.name: set_ for set_ in audit.sets},
        verdicts=_verdicts(audit.claims),
        tables=[_table(own, roles) for own in (first, further)],
        forests=_forests(first, roles),
        distributions=_distributions(first, roles),
        plane=_plane(audit, roles),
        attacks=_attacks(audit, roles, quoted),
        courses=_courses(manifests),
        questions=_questions(audit.answers, roles, quoted),
        unquoted=max(0, len(audit.answers) - quoted),
        stages=_stages(manifests),
        versions=_versions(manifests),
        origins=_origins(manifests),
        facts=_facts(audit.settings),
        meaning=_meaning,
    )
    # A lone surrogate cannot be written as UTF-8; control characters are not allowed in HTML.
    page = page.encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", page)


def _first_and_further(scores: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """Those of the claims' metrics on the claims' sets, and the others; all of them are first where there are no such."""
    first = [score for score in scores if score.metric in _GLOSSARY and score.set in _SETS]
    further = [score for score in scores if not (score.metric in _GLOSSARY and score.set in _SETS)]
    return (first, further) if first else (further, first)


def metric_name(metric: str) -> str:
    """`rouge-l-recall` → `ROUGE-L recall`, `min-k-auc` → `Min-K% AUC`."""
    words = [_SPELLINGS.get(word.lower(), word) for word in re.split(r"[-_\s]+", metric) if word]
    name = " ".join(words).replace("ROUGE L", "ROUGE-L").replace("min K", "Min-K%").replace("Min-K% plus plus", "Min-K%++")
    return name[:1].upper() + name[1:]


class Proof(NamedTuple):
    """A claim, and what speaks for or against it."""

    claim: Claim
    meaning: str
    """What it means, in plain words; empty for a claim this page does not know."""
    reasons: list[str]
    rules: list[str]
    figures: list[Figure]
    """Each metric and set the rule looked at, under every model it looked at."""


class Verdict(NamedTuple):
    """The claims made of one model."""

    model: str
    ruling: Ruling
    """The worst of them: a failure, else something not provable, else a pass."""
    summary: str
    proofs: list[Proof]


def _verdicts(claims: Sequence[Claim]) -> list[Verdict]:
    found = []
    for model in _in_order([claim.model for claim in claims], plots.ROLES):
        own = [claim for claim in claims if claim.model == model]
        rulings = [claim.ruling for claim in own]
        worst: Ruling = "fail" if "fail" in rulings else "not provable" if "not provable" in rulings else "pass"
        words = {"pass": "proven", "fail": "failed", "not provable": "not provable"}
        counts = [f"{rulings.count(ruling)} {word}" for ruling, word in words.items() if ruling in rulings]
        summary = (
            f"all {len(own)} claims proven"
            if worst == "pass" and len(own) > 1
            else f"of {len(own)} claims: {', '.join(counts)}"
        )
        found.append(Verdict(model, worst, summary, [_proof(claim) for claim in own]))
    return found


def _proof(claim: Claim) -> Proof:
    # What attacks found has a section of its own.
    groups = _by_set_and_metric(() if claim.name == ROBUST else claim.scores)
    figures = [
        _forest(drawn, intervals=True) for own in groups.values() if (drawn := [score for score in own if _finite(score)])
    ]
    return Proof(claim, _CLAIMS.get(claim.name, ""), claim.reason.split("; "), claim.rule.split("; and "), figures)


class TableRow(NamedTuple):
    """One metric in the table of scores."""

    metric: str
    meaning: str
    aim: str
    span: str
    people: str
    cells: tuple[Score | None, ...]
    """A score for each model, in the order of the columns."""


def _table(scores: Sequence[Score], roles: Sequence[str]) -> dict[str, list[TableRow]]:
    table: dict[str, list[TableRow]] = {}
    for (set_, metric), own in _by_set_and_metric(scores).items():
        first = own[0]
        row = TableRow(
            metric=metric,
            meaning=_meaning(metric),
            aim=_aim(first),
            span=f"≥ {first.span[0]:g}" if first.span[1] is None else f"{first.span[0]:g} – {first.span[1]:g}",
            people=_from_to(score.people for score in own),
            cells=tuple(next((score for score in own if score.model == role), None) for role in roles),
        )
        table.setdefault(set_, []).append(row)
    return table


def _from_to(counts: Iterable[int]) -> str:
    """`4`, or `4–1,200` where they differ."""
    ordered = sorted(counts)
    return "–".join(f"{count:,}" for count in dict.fromkeys((ordered[0], ordered[-1])))


def _aim(score: Score) -> str:
    """What an unlearned model should do on this row; `better` speaks of the forget set only."""
    if score.set == "forget":
        return {"lower": "↓ lower", "higher": "↑ higher", "middle": "→ near retrained"}[score.better]
    return "reference" if score.set == "holdout" else "= near target"


class Figure(NamedTuple):
    """A plot and the words around it."""

    heading: str
    drawing: Markup
    note: str = ""
    key: Sequence[tuple[Markup, str]] = ()
    """A piece of each line in the drawing and its name."""


def _forest(scores: Sequence[Score], *, intervals: bool = False) -> Figure:
    """The plot of one metric on one set."""
    metric, set_ = scores[0].metric, scores[0].set
    name = metric_name(metric)
    label = f"{name}, {set_}: " + "; ".join(
        f"{score.model} {plots.number(score.value)} ({plots.number(score.low)} to {plots.number(score.high)})"
        for score in scores
    )
    chance = 0.5 if metric.lower().endswith("auc") else None
    heading = f"{name}, {set_}" if intervals else name
    return Figure(heading, plots.forest(scores, label=label, chance=chance, intervals=intervals), _places(scores))


def _forests(scores: Sequence[Score], roles: Sequence[str]) -> dict[str, list[Figure]]:
    figures: dict[str, list[Figure]] = {}
    for (set_, _), own in _by_set_and_metric(scores).items():
        drawn = [score for role in roles for score in own if score.model == role and _finite(score)]
        if len(drawn) > 1:
            figures.setdefault(set_, []).append(_forest(drawn))
    return figures


def _places(scores: Sequence[Score]) -> str:
    """Where the unlearned and the shipped model stand beside the retrained one, in words."""
    reference = next((score for score in scores if score.model == "retrained"), None)
    if reference is None:
        return ""
    found: dict[str, list[str]] = {}
    for score in scores:
        if score.model in ("unlearned", "shipped"):
            where = "above" if score.value > reference.high else "below" if score.value < reference.low else "inside"
            found.setdefault(where, []).append(score.model)
    return "; ".join(f"{' and '.join(models)} {where} the retrained interval" for where, models in found.items())


class Distribution(NamedTuple):
    """One metric of every example under every model."""

    metric: str
    meaning: str
    panels: list[Figure]


def _distributions(scores: Sequence[Score], roles: Sequence[str]) -> list[Distribution]:
    by_metric: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        if len(score.values) > 1 and score.set != "ordinary":
            by_metric[score.metric].append(score)
    found = []
    for metric in _in_order(list(by_metric), ("probability", *_GLOSSARY)):
        own = by_metric[metric]
        sets = _in_order([score.set for score in own], _SETS)
        x = plots.scale_for([value for score in own for value in score.values], own[0].span, 76, 308)
        panels = []
        for role in roles:
            lanes = [(set_, score.values) for set_ in sets for score in own if (score.model, score.set) == (role, set_)]
            if lanes:
                medians = ", ".join(f"{set_} {plots.number(_median(values))}" for set_, values in lanes)
                label = f"{metric_name(metric)} of each example under the {role} model; medians: {medians}"
                panels.append(Figure(role, plots.strips(role, lanes, x, label=label)))
        found.append(Distribution(metric, _meaning(metric), panels))
    return found


def _plane(audit: Audit, roles: Sequence[str]) -> Figure | None:
    metrics = list(dict.fromkeys(score.metric for score in audit.scores if score.set == "forget"))
    for metric in _in_order(metrics, [m for word in ("rouge", "probability") for m in metrics if word in m.lower()]):
        points = {}
        for role in roles:
            kept, known = audit.score(metric, role, "retain"), audit.score(metric, role, "forget")
            if kept and known and _finite(kept) and _finite(known):
                points[role] = (kept, known)
        if len(points) > 1:
            name = metric_name(metric)
            label = f"{name} on the retain set against the forget set: " + "; ".join(
                f"{role} {plots.number(kept.value)}, {plots.number(known.value)}" for role, (kept, known) in points.items()
            )
            drawing = plots.plane(points, x_name=f"{name}, retain set", y_name=f"{name}, forget set", label=label)
            return Figure(name, drawing)
    return None


class Attempt(NamedTuple):
    """One attack in the table of attacks."""

    name: str
    summary: str
    holds: str
    """What the attacker must have."""
    questions: str
    cells: tuple[AttackResult | None, ...]
    """A result for each model, in the order of the columns."""
    rulings: tuple[tuple[str, Ruling], ...]
    """Role → ruling, where there is one."""
    closest: tuple[str, Comparison] | None
    """What the unlearned model said that came closest to an expected answer, and whom it is about; None: not quoted."""


class Attempts(NamedTuple):
    """What attacks brought back."""

    picture: Figure
    roles: tuple[str, ...]
    table: tuple[Attempt, ...]


def _attacks(audit: Audit, roles: Sequence[str], quoted: int) -> Attempts | None:
    tried = [each for each in audit.attacks if each.variant != ALONE]
    if not tried:
        return None
    known = {attack.name: attack for attack in every_attack()}
    own = tuple(role for role in roles if any(each.model == role for each in tried))
    groups: dict[str, list[AttackResult]] = {}
    for each in tried:
        groups.setdefault(named(each), []).append(each)
    table = []
    for name, results in groups.items():
        attack = known.get(results[0].attack.split(" ")[0])
        table.append(
            Attempt(
                name=name,
                summary=attack.summary if attack else "",
                holds=attack.holds if attack else "",
                questions=_from_to(each.questions for each in results),
                cells=tuple(next((each for each in results if each.model == role), None) for role in own),
                rulings=tuple((each.model, each.ruling) for each in results if each.ruling),
                closest=_closest(audit, results) if quoted else None,
            )
        )
    lanes = [
        plots.Lane(name, {each.model: (each.value, each.low, each.high) for each in results if each.model in own})
        for name, results in groups.items()
    ]
    asked = {role: score for role in own if (score := audit.score("rouge-l-recall", role, "forget")) and _finite(score)}
    if asked:
        marks = {role: (score.value, score.low, score.high) for role, score in asked.items()}
        lanes.insert(0, plots.Lane("the plain question", marks))
    label = "ROUGE-L recall on the forget set under each attack: " + "; ".join(
        f"{lane.name}, {', '.join(f'{role} {plots.number(value)}' for role, (value, _, _) in lane.marks.items())}"
        for lane in lanes
    )
    return Attempts(Figure("Recovered under each attack", plots.recovery(lanes, label=label)), own, tuple(table))


def _closest(audit: Audit, results: Sequence[AttackResult]) -> tuple[str, Comparison] | None:
    """The unlearned model's best answer, beside what was expected about that person and comes nearest to it."""
    own = next((each for each in results if each.model == "unlearned" and each.answers), None)
    if own is None:
        return None
    place = max(range(len(own.values)), key=own.values.__getitem__)
    whom = own.subjects[place]
    expected = [answer.expected for answer in audit.answers if (answer.set, answer.subject) == ("forget", whom)]
    beside = [compare(own.answers[place], words) for words in expected]
    return (whom, max(beside, key=lambda each: each.share)) if beside else None


def _courses(manifests: Mapping[str, dict[str, Any]]) -> list[Figure]:
    """The curves of every run whose manifest has a trace, and where it stopped and why."""
    figures = []
    for stage, manifest in manifests.items():
        results = manifest.get("results") or {}
        series = list(_series(results.get("trace")))
        # Losses of sets are in nats a token and stand together; what was minimised has a scale of its own.
        losses = [line for line in series if line.name.endswith(" loss")]
        groups = [("losses of the sets", losses)] * bool(losses) + [
            (line.name, [line]) for line in series if line not in losses
        ]
        stopped = results.get("stopped")
        for name, group in groups[:6]:
            label = f"{stage}, {name} over the steps: " + "; ".join(
                f"{line.name} from {plots.number(line.points[0][1])} to {plots.number(line.points[-1][1])}" for line in group
            )
            note = f"Where it stopped: {stopped}" if isinstance(stopped, str) and group is groups[0][1] else ""
            key = plots.key(group) if len(group) > 1 else []
            figures.append(Figure(f"{stage}: {name}", plots.curves(group, label=label), note, key))
    return figures


def _series(trace: Any) -> Iterator[plots.Series]:
    """Every column of numbers in a trace, a list of rows such as `{"step": 10, "forget_loss": 1.2}`."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for index, row in enumerate(trace if isinstance(trace, list) else []):
        if isinstance(row, Mapping):
            step = float(row["step"]) if _is_number(row.get("step")) else float(index)
            for key, value in row.items():
                # A schedule is a setting, not something the run found out.
                if key not in ("step", "epoch", "seconds", "lr", "learning_rate") and _is_number(value):
                    points[str(key)].append((step, float(value)))
    for key, line in points.items():
        if len(line) > 1:
            # By step alone: where a run ends by stepping back, its last step has two values, in this order.
            yield plots.Series(key.replace("_", " "), tuple(sorted(line, key=lambda point: point[0])))


class Said(NamedTuple):
    """What one model said to a question."""

    role: str
    comparison: Comparison | None
    """None: it was not asked."""


class Question(NamedTuple):
    """A question, the expected answer, and what every model said."""

    set: str
    subject: str
    prompt: str
    expected: str
    said: tuple[Said, ...]


def _questions(answers: Sequence[Answer], roles: Sequence[str], most: int) -> dict[str, list[Question]]:
    by_set: dict[str, list[Answer]] = {set_: [] for set_ in _in_order([answer.set for answer in answers], _SETS)}
    for answer in answers:
        by_set[answer.set].append(answer)
    room = most
    found = {}
    # The smallest sets first: what they leave goes to the larger ones.
    for left, set_ in zip(range(len(by_set), 0, -1), sorted(by_set, key=lambda name: len(by_set[name])), strict=True):
        share = min(len(by_set[set_]), room // left)
        room -= share
        found[set_] = [_question(answer, roles) for answer in _spread(by_set[set_], share)]
    return {set_: found[set_] for set_ in by_set if found[set_]}


def _question(answer: Answer, roles: Sequence[str]) -> Question:
    said = tuple(
        Said(role, compare(answer.answers[role], answer.expected) if role in answer.answers else None) for role in roles
    )
    return Question(answer.set, answer.subject, shortened(answer.prompt), shortened(answer.expected), said)


class Stage(NamedTuple):
    """One run of the story."""

    name: str
    command: str
    state: str
    started: str
    ended: str
    seconds: float
    """Working time, in all its parts."""
    share: float
    """Of the longest stage, 0 to 100."""
    parts: dict[str, float]
    memory: str
    facts: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def audits(self) -> bool:
        return self.command.split(" ")[0] == "audit"

    @property
    def unlearns(self) -> bool:
        return self.command.split(" ")[0] == "unlearn"


def _stages(manifests: Mapping[str, dict[str, Any]]) -> list[Stage]:
    totals = {name: _total(manifest) for name, manifest in manifests.items()}
    longest = max(totals.values(), default=0.0) or 1.0
    return [
        Stage(
            name=name,
            command=str(manifest.get("command", "")),
            state=str(manifest.get("state", "")),
            started=str(manifest.get("started", "")),
            ended=str(manifest.get("ended", "")),
            seconds=totals[name],
            share=round(100 * totals[name] / longest, 1),
            parts={str(part): float(value) for part, value in (manifest.get("seconds") or {}).items() if _is_number(value)},
            memory=_bytes(manifest["peak_memory_bytes"]) if _is_number(manifest.get("peak_memory_bytes")) else "",
            facts=[(name, value) for name, value in _facts(_without_trace(manifest)) if len(value) < 400],
            settings=_facts(manifest.get("settings") or {}),
            inputs={str(key): str(value) for key, value in (manifest.get("inputs") or {}).items()},
            outputs={str(key): str(value) for key, value in (manifest.get("outputs") or {}).items()},
        )
        for name, manifest in manifests.items()
    ]


def _total(manifest: Mapping[str, Any]) -> float:
    """Seconds of work: the timed parts, or the whole where nothing was timed."""
    parts = [float(value) for value in (manifest.get("seconds") or {}).values() if _is_number(value)]
    if parts:
        return sum(parts)
    try:
        return (datetime.fromisoformat(manifest["ended"]) - datetime.fromisoformat(manifest["started"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _versions(manifests: Mapping[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Package → the versions the stages ran with; more than one is worth a look."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for manifest in manifests.values():
        for package, version in (manifest.get("versions") or {}).items():
            found[str(package)][str(version)] = None
    return [(package, list(versions)) for package, versions in found.items()]


def _origins(manifests: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Fingerprint → the stage and output that first had it, so that a reader can follow a file from stage to stage."""
    found: dict[str, str] = {}
    for stage, manifest in manifests.items():
        for output, fingerprint in (manifest.get("outputs") or {}).items():
            found.setdefault(str(fingerprint), f"{stage}/{output}")
    return found


def _without_trace(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (manifest.get("results") or {}).items() if key != "trace" and value is not None}


def _facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A tree of settings or results as names and short values; lists of words only by their length: they may be people."""
    found = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping) and value:
            found += _facts(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            few = len(value) <= 8 and all(_is_number(item) for item in value)
            found.append((name, ", ".join(map(_fact, value)) if value and few else f"{len(value)} entries"))
        elif key.endswith("bytes") and _is_number(value):
            found.append((name.removesuffix("bytes").strip() or "size", _bytes(value)))
        else:
            found.append((name, _fact(value)))
    return found


def _fact(value: Any) -> str:
    if value is None or value == {}:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _by_set_and_metric(scores: Sequence[Score]) -> dict[tuple[str, str], list[Score]]:
    found: dict[tuple[str, str], list[Score]] = {}
    for set_ in _in_order([score.set for score in scores], _SETS):
        own = [score for score in scores if score.set == set_]
        for metric in _in_order([score.metric for score in own], tuple(_GLOSSARY)):
            found[set_, metric] = [score for score in own if score.metric == metric]
    return found


def _in_order(found: Sequence[str], known: Sequence[str]) -> list[str]:
    """Each once: the known ones in their order, then the others as they came."""
    return [name for name in dict.fromkeys([*known, *found]) if name in found]


def _spread(items: Sequence[Answer], count: int) -> list[Answer]:
    """That many of the items, evenly spaced from the first on."""
    return [items[index * len(items) // count] for index in range(count)]


def _meaning(metric: str) -> str:
    """The metric in plain words; for one that has none here, the first line of its own description."""
    if metric in _GLOSSARY or metric not in METRICS:
        return _GLOSSARY.get(metric, "")
    return (METRICS[metric].measure.__doc__ or "").strip().split("\n")[0]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(value for value in values if math.isfinite(value))
    return plots.quantile(ordered, 0.5) if ordered else math.nan


def _finite(score: Score) -> bool:
    return all(math.isfinite(number) for number in (score.value, score.low, score.high))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(value: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _spoken_time(moment: str) -> str:
    """`2026-03-01T12:05:09+00:00` → `1 March 2026, 12:05 UTC`; what is no time is left as it is."""
    try:
        time = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    zone = time.tzname() or ""
    return f"{time.day} {time:%B %Y, %H:%M} {zone}".strip()
