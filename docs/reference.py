"""Writes docs/methods.md, docs/metrics.md and docs/attacks.md from the registries: `python docs/reference.py`.

Names, summaries, formulas, settings and sources are said once, in the code; a test fails when the pages lag behind it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docstring_parser import Docstring, parse, parse_from_object

from expunge import metrics as metrics_room
from expunge.audit import attacks as attacks_room
from expunge.audit import robust
from expunge.audit.attacks import EXTRACTION, Attack, every_attack
from expunge.audit.calibration import calibrated
from expunge.methods import METHODS
from expunge.metrics import METRICS, Direction, Over, Part
from expunge.recipes import shards as shards_recipe
from expunge.recipes.attack import AttackConfig
from expunge.recipes.extraction import ExtractionConfig
from expunge.recipes.retrain import RetrainConfig
from expunge.recipes.shards import ForgetShardsConfig, ShardsConfig
from expunge.recipes.unlearn import UnlearnConfig
from expunge.training.impact import ESTIMATORS, ImpactConfig
from expunge.training.objective import Method, Need

_MADE = "<!-- Written by docs/reference.py from the docstrings: change those, then run `python docs/reference.py`. -->"


def pages() -> dict[str, str]:
    """The text of every generated page, by its file name in this directory."""
    texts = {"methods.md": _methods(), "metrics.md": _metrics(), "attacks.md": _attacks()}
    return {name: re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) for name, lines in texts.items()}


def _methods() -> Iterator[str]:
    yield from (_MADE, "", "# Methods", "")
    yield from (
        "Ways to unlearn, each a command of `expunge unlearn` (but `expunge shards`). `expunge methods` lists them.",
        "",
    )
    for name in METHODS:
        yield from _method(METHODS[name])
    yield from (
        "## retrain",
        "",
        inspect.getdoc(sys.modules[RetrainConfig.__module__]) or "",
        "",
        *_settings(RetrainConfig),
        "",
    )
    yield from ("## shards", "", inspect.getdoc(shards_recipe) or "", "", "Of `expunge shards train`:", "")
    yield from (*_settings(ShardsConfig), "", "Of `expunge shards forget`:", "", *_settings(ForgetShardsConfig), "")
    yield from ("## Settings every method takes", "", inspect.getdoc(UnlearnConfig) or "", "", *_settings(UnlearnConfig), "")
    yield from ("## What a method may ask for", "", *_members(Need), "")
    yield from ("## Token impact", "", inspect.getdoc(ImpactConfig) or "", "", *_settings(ImpactConfig), "")
    for name in ESTIMATORS:
        yield from (f"### {name}", "", inspect.getdoc(sys.modules[ESTIMATORS[name].measure.__module__]) or "", "")
        yield from (inspect.getdoc(ESTIMATORS[name].measure) or "", "")


def _method(method: Method) -> Iterator[str]:
    module = sys.modules[method.loss.__module__]
    yield from (f"## {method.name}", "", method.summary, "", inspect.getdoc(module) or "", "")
    needs = ", ".join(need.value for need in Need if need in method.needs) or "nothing but the forget set"
    ledger = " --database ledger.db" if Need.IMPACT in method.needs else ""
    yield from (f"- Source: {method.paper}", f"- Needs: {needs}", "")
    # What the module defines itself and shows: the formula, and the loss that puts it to use.
    for function in (found for _, found in inspect.getmembers(module, inspect.isfunction)):
        if function.__module__ == module.__name__ and not function.__name__.startswith("_"):
            yield from (f"`{function.__name__}`", "", *_docstring(function), "")
    sets = "--forget data/forget.jsonl --retain data/retain.jsonl --holdout data/holdout.jsonl"
    yield from (
        "```bash",
        f"expunge unlearn {method.name} --model target/model \\",
        f"  {sets} --output unlearned{ledger}",
        "```",
        "",
    )
    if settings := [*_settings(method.config)]:
        yield from ("Settings:", "", *settings, "")


def _metrics() -> Iterator[str]:
    yield from (_MADE, "", "# Metrics", "", "What an audit measures. `expunge metrics` lists them.", "")
    yield from (inspect.getdoc(metrics_room) or "", "")
    yield from _calibrated()
    for name in METRICS:
        metric = METRICS[name]
        low, high = metric.span
        yield from (f"## {name}", "", inspect.getdoc(sys.modules[metric.measure.__module__]) or "", "")
        yield f"- Better on the forget set: {metric.better.value}"
        yield f"- Range of a set's value: {low:g} to {'∞' if high is None else f'{high:g}'}"
        made_of = [f"`{part.value}`" for part in (*metric.needs, *metric.may)]
        made_of += [f"`{own}` on {set}" for set, each in metric.of.items() for own in each]
        yield _item(f"Made of: {', '.join(made_of)}{', each of the retrained model too' if metric.beside_retrained else ''}")
        yield f"- Source: {metric.paper}"
        yield f"- Measured: {'when asked for by name, or by `all`' if metric.dear else 'always'}"
        yield from (f"- Over a set: {metric.over.value}", "", f"`{metric.measure.__name__}`", "")
        yield from (*_docstring(metric.measure), "")
    yield from ("## Words", "", "**Made of**: the parts of the evidence.", "", *_members(Part), "")
    yield from ("**Better on the forget set**", "", *_members(Direction), "", "**Over a set**", "", *_members(Over), "")


def _calibrated() -> Iterator[str]:
    """The table of `expunge audit calibrate` that the verdict goes by."""
    rows = calibrated()
    yield from ("## How far each can be believed", "", inspect.getdoc(sys.modules[calibrated.__module__]) or "", "")
    yield from (
        f"Of the embedded model: {rows[0].knowing} that were taught the facts, {rows[0].ignorant} that were taught others, and "
        f"{rows[0].tried} made to forget, by",
        "`expunge audit calibrate --people 3 --epochs 2 4 6 --methods grad-diff balanced-npo`. So few tell good from bad",
        "metrics, not the good ones from each other. The robustnesses are means over the unlearned models that it takes",
        "to have forgotten.",
    )
    yield from (
        "",
        "| metric | faithfulness | robust to relearning | robust to 4 bits | unlearned models |",
        "|---|---|---|---|---|",
    )
    for row in rows:
        shares = ("" if share is None else f"{share:.2f}" for share in (row.relearning, row.quantisation))
        yield f"| [{row.metric}](#{row.metric}) | {row.auc:.2f} | {' | '.join(shares)} | {row.forgotten} of {row.tried} |"
    yield ""


def _attacks() -> Iterator[str]:
    yield from (_MADE, "", "# Attacks", "")
    yield from (
        "Ways to get the forgotten back, each a command of `expunge attack`, and by `--attacks` a part of `expunge audit`.",
        "`expunge attacks` lists them.",
        "",
    )
    yield from (inspect.getdoc(attacks_room) or "", "")
    for attack in every_attack():
        yield from _attack(attack)
    yield from ("## The claim", "", inspect.getdoc(robust) or "", "")
    yield from ("## Settings every attack on one model takes", "", inspect.getdoc(AttackConfig) or "", "")
    yield from (*_settings(AttackConfig), "")
    yield from ("## Settings of the attack on two checkpoints", "", inspect.getdoc(ExtractionConfig) or "", "")
    yield from (*_settings(ExtractionConfig), "")


def _attack(attack: Attack) -> Iterator[str]:
    module = sys.modules[attack.module]
    yield from (f"## {attack.name}", "", attack.summary, "", inspect.getdoc(module) or "", "")
    yield _item(f"The attacker has: {attack.holds}")
    yield from (_item(f"Source: {attack.source}"), "")
    pair = attack.name == EXTRACTION
    others = " --others data/retain.jsonl" if attack.name in ("few-shot", "relearn") else ""
    models = "--pre target/model --post" if pair else "--target target/model --retrained retrained/model --unlearned"
    yield from (
        "```bash",
        f"expunge attack {attack.name} {models} unlearned/model \\",
        f"  --forget data/forget.jsonl{others} --output attack",
        "```",
        "",
    )
    if settings := [*_settings(attack.config)]:
        yield from ("Settings:", "", *settings, "")


def _docstring(function: Callable[..., Any]) -> Iterator[str]:
    found: Docstring = parse(function.__doc__ or "")
    yield from (found.short_description or "", "")
    if found.long_description:
        yield from (found.long_description, "")
    for argument in found.params:
        yield _item(f"`{argument.arg_name}`: {argument.description}")
    if found.returns:
        # A colon inside the words makes the parser take what stands before it for a type.
        words = (found.returns.type_name, found.returns.description)
        yield _item(f"returns {': '.join(word for word in words if word)}")
    for error in found.raises:
        yield _item(f"raises `{error.type_name}`: {error.description}")


def _settings(config: type[Any]) -> Iterator[str]:
    meanings = {each.arg_name: each.description for each in parse_from_object(config).params}
    for field in dataclasses.fields(config):
        if field.default is dataclasses.MISSING:
            default = "required"
        else:
            default = "optional" if field.default is None else f"default {field.default}"
        yield _item(f"`--{field.name.replace('_', '-')}` ({default}): {meanings[field.name]}")


def _members(words: type[Any]) -> Iterator[str]:
    meanings = {each.arg_name: each.description for each in parse_from_object(words).params}
    for word in words:
        meaning = meanings.get(word.name)
        yield _item(f"`{word.value}`: {meaning}" if meaning else f"`{word.value}`")


def _item(words: str) -> str:
    wrapped = textwrap.wrap(" ".join(words.split()), 118, break_long_words=False, break_on_hyphens=False)
    return "- " + "\n  ".join(wrapped)


if __name__ == "__main__":
    for name, text in pages().items():
        Path(__file__).with_name(name).write_text(text, "utf-8")
