"""Plots as inline SVG that takes its colours from the page, so that they follow light, dark and paper.

Pure functions: numbers in, markup out. A model has one colour and one mark everywhere, so colour is never the only
carrier. Lengths are in SVG user units, about one CSS pixel each at phone width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from expunge.audit.results import Score

ROLES = ("target", "unlearned", "retrained", "shipped")
"""The models an audit knows, in the order they are drawn in."""
_DOTS = 240  # dots a strip; more could not be told apart


class Scale(NamedTuple):
    """Values on one axis to places on the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; what lies outside stands at the edge."""
        low, high, value = (_log10(x) if self.log else x for x in (self.low, self.high, value))
        share = (min(max(value, low), high) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 4) -> list[float]:
        """Round values on the axis: 1, 2 or 5 times a power of ten apart, or on a log axis at such values."""
        if self.log:
            powers = range(math.floor(_log10(self.low)), math.ceil(_log10(self.high)) + 1)
            fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            inside = [tick for tick in fine if self.low <= tick <= self.high]
            if len(inside) > about + 2:
                inside = [10.0**power for power in powers if self.low <= 10.0**power <= self.high]
            return inside[:: math.ceil(len(inside) / (about + 2)) or 1]
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_for(values: Sequence[float], span: tuple[float, float | None], start: float, end: float) -> Scale:
    """An axis over the metric's whole span where that is bounded, else over the values; logarithmic if they spread far
    and the span has a floor."""
    low, high = span
    if high is not None and math.isfinite(low) and math.isfinite(high) and high > low:
        return Scale(low, high, start, end)
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    least, most = min(values), max(values)
    if math.isfinite(low) and least > 0 and most / least > 30:
        return Scale(least / 1.3, most * 1.3, start, end, log=True)
    room = (most - least) * 0.08 or abs(most) * 0.1 or 1.0
    least = least - room if least - room > low else low
    return Scale(least, most + room, start, end)


def number(value: float) -> str:
    """A number as people write it: three digits that matter, thousands set apart."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "–"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return re.sub(r"e([+-])0*", r"e\1", f"{value:.1e}").replace("+", "").replace("-", "−")
    return (
        f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"
    ).replace("-", "−")


def forest(scores: Sequence[Score], *, label: str, chance: float | None = None, intervals: bool = False) -> Markup:
    """One metric on one set: a lane for each model with its value and 95% interval, over the retrained model's band.

    Args:
        scores: one a model, all of one metric and set, at least one.
        label: what the plot shows, for those who do not see it.
        chance: where guessing would land; drawn as a line.
        intervals: write the interval's ends beside the value; the lanes are then narrower and closer.
    """
    width, lane, left, right = (330, 20, 78, 206) if intervals else (360, 27, 92, 308)
    top, bottom = 6, 6 + lane * len(scores)
    x = scale_for([number for s in scores for number in (s.value, s.low, s.high)], scores[0].span, left, right)
    parts = [Markup()]
    reference = next((s for s in scores if s.model == "retrained"), None)
    if reference is not None:
        wide = max(2.0, x(reference.high) - x(reference.low))
        parts.append(_tag("rect", x=x(reference.low), y=top, width=wide, height=bottom - top, class_="band"))
    parts.append(_x_axis(x, top, bottom, 2 if intervals else 4))
    if chance is not None and x.low < chance < x.high:
        parts.append(_tag("line", x1=x(chance), x2=x(chance), y1=top, y2=bottom, class_="chance"))
    for index, score in enumerate(scores):
        y = top + lane * index + lane / 2
        words = f"{score.model}: {number(score.value)}, 95% interval {number(score.low)} to {number(score.high)}"
        ends = f"{number(score.low)}–{number(score.high)}"
        parts.append(
            _tag(
                "g",
                _tag("title", words),
                _tag("line", x1=x(score.low), x2=x(score.high), y1=y, y2=y, class_="whisker"),
                *(_tag("line", x1=x(end), x2=x(end), y1=y - 4, y2=y + 4, class_="whisker") for end in (score.low, score.high)),
                mark(score.model, x(score.value), y),
                _tag("text", score.model, x=left - 12, y=y + 4, class_="end name"),
                _tag("text", number(score.value), x=(252 if intervals else width - 2), y=y + 4, class_="end value"),
                _tag("text", ends, x=width, y=y + 4, class_="end tick") if intervals else Markup(),
                class_=model_class(score.model),
            )
        )
    return _svg(width, bottom + 20, label, *parts)


class Lane(NamedTuple):
    """What one attack got out of each model."""

    name: str
    marks: Mapping[str, tuple[float, float, float]]
    """Role → (value, low, high)."""


def recovery(lanes: Sequence[Lane], *, label: str) -> Markup:
    """A lane for each attack, with every model's value and 95% interval over the band of the retrained model under that attack.

    Args:
        lanes: at least one; values of 0 to 1.
        label: what the plot shows, for those who do not see it.
    """
    width, left, right, name, step = 440, 8, 372, 19, 12
    x = Scale(0, 1, left, right)
    parts, y = [Markup()], 4.0
    for lane in lanes:
        roles = [role for role in (*ROLES, *(role for role in lane.marks if role not in ROLES)) if role in lane.marks]
        top, bottom = y + name, y + name + step * len(roles) + 2
        if reference := lane.marks.get("retrained"):
            _, low, high = reference
            wide = max(2.0, x(high) - x(low))
            parts.append(_tag("rect", x=x(low), y=top, width=wide, height=bottom - top, class_="band"))
        parts += [_tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid") for tick in (0, 0.25, 0.5, 0.75, 1)]
        parts.append(_tag("text", lane.name, x=left, y=y + 14, class_="start name"))
        for index, role in enumerate(roles):
            value, low, high = lane.marks[role]
            middle = top + step * (index + 0.5) + 1
            words = f"{lane.name}, {role}: {number(value)}, 95% interval {number(low)} to {number(high)}"
            shown = [_tag("text", number(value), x=width - 2, y=middle + 4, class_="end value")] if role == "unlearned" else []
            parts.append(
                _tag(
                    "g",
                    _tag("title", words),
                    _tag("line", x1=x(low), x2=x(high), y1=middle, y2=middle, class_="whisker"),
                    mark(role, x(value), middle),
                    *shown,
                    class_=model_class(role),
                )
            )
        y = bottom + 6
    parts.append(_tag("line", x1=left, x2=right, y1=y, y2=y, class_="axis"))
    parts += [_tag("text", _tick(tick), x=x(tick), y=y + 15, class_="middle tick") for tick in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(width, y + 20, label, *parts)


def strips(model: str, lanes: Sequence[tuple[str, Sequence[float]]], x: Scale, *, label: str) -> Markup:
    """The metric of every example under one model: a lane for each set, with a box for the middle half and its median.

    Args:
        model: the role, which gives the colour.
        lanes: name of the set and its values.
        x: the axis, shared by the models.
        label: what the plot shows, for those who do not see it.
    """
    width, lane, top = 360, 46, 4
    bottom = top + lane * len(lanes)
    parts = [_x_axis(x, top, bottom)]
    for index, (name, values) in enumerate(lanes):
        middle = top + lane * index + lane / 2
        ordered = sorted(value for value in values if math.isfinite(value))
        parts.append(_tag("text", name, x=x.start - 12, y=middle + 4, class_="end name"))
        if not ordered:
            continue
        low, median, high = (quantile(ordered, share) for share in (0.25, 0.5, 0.75))
        thin = ordered if len(ordered) <= _DOTS else [quantile(ordered, (n + 0.5) / _DOTS) for n in range(_DOTS)]
        # The golden ratio spreads neighbours apart without chance, so the same audit draws the same page.
        dots = "".join(f"M{x(v)} {middle - 15 + 30 * (n * 0.618034 % 1):.1f}h0" for n, v in enumerate(thin))
        parts.append(
            _tag(
                "g",
                _tag(
                    "title",
                    f"{name}: median {number(median)}, middle half {number(low)} to {number(high)}, {len(ordered)} examples",
                ),
                _tag(
                    "rect", x=x(low), y=middle - 17, width=round(max(1.5, x(high) - x(low)), 1), height=34, rx=3, class_="box"
                ),
                _tag("path", d=dots, class_="dots"),
                _tag("line", x1=x(median), x2=x(median), y1=middle - 18, y2=middle + 18, class_="median"),
                _tag("text", number(median), x=width - 2, y=middle + 4, class_="end value"),
                class_=model_class(model),
            )
        )
    return _svg(width, bottom + 22, label, *parts)


def plane(points: Mapping[str, tuple[Score, Score]], *, x_name: str, y_name: str, label: str) -> Markup:
    """Forgetting against usefulness: every model at (score on retain, score on forget), an arrow from target to unlearned.

    Args:
        points: role → (score on retain, score on forget), of one metric.
        x_name: what the horizontal axis is.
        y_name: what the vertical axis is.
        label: what the plot shows, for those who do not see it.
    """
    width, height, left, right, top, bottom = 400, 330, 46, 312, 14, 274
    pairs = list(points.values())
    x = scale_for([v for s, _ in pairs for v in (s.value, s.low, s.high)], pairs[0][0].span, left, right)
    y = scale_for([v for _, s in pairs for v in (s.value, s.low, s.high)], pairs[0][1].span, bottom, top)
    parts = [
        _tag("path", d=f"M{left} {bottom}H{right}V{top}", class_="axis"),
        _tag("path", d=f"M{left} {bottom}V{top}H{right}", class_="axis"),
    ]
    for tick in x.ticks(5):
        parts.append(_tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(_tag("text", _tick(tick), x=x(tick), y=bottom + 16, class_="middle tick"))
    for tick in y.ticks(5):
        parts.append(_tag("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(_tag("text", _tick(tick), x=left - 7, y=y(tick) + 4, class_="end tick"))
    if reference := points.get("retrained"):
        kept, known = reference
        parts.append(
            _tag(
                "rect",
                _tag("title", "the retrained model's 95% intervals"),
                x=x(kept.low),
                y=y(known.high),
                width=max(2.0, x(kept.high) - x(kept.low)),
                height=max(2.0, y(known.low) - y(known.high)),
                rx=2,
                class_="band",
            )
        )
    if "target" in points and "unlearned" in points:
        start, end = ((x(kept.value), y(known.value)) for kept, known in (points["target"], points["unlearned"]))
        parts.append(_arrow(start, end))
    for role, (kept, known) in points.items():
        across, up = x(kept.value), y(known.value)
        words = f"{role}: {x_name.lower()} {number(kept.value)}, {y_name.lower()} {number(known.value)}"
        parts.append(
            _tag(
                "g",
                _tag("title", words),
                _tag("line", x1=x(kept.low), x2=x(kept.high), y1=up, y2=up, class_="whisker"),
                _tag("line", x1=across, x2=across, y1=y(known.low), y2=y(known.high), class_="whisker"),
                mark(role, across, up),
                class_=model_class(role),
            )
        )
    places = _apart([(y(known.value), role) for role, (_, known) in points.items()], 17, top + 8, bottom - 4)
    for role, (kept, known) in points.items():
        across, up, place = x(kept.value), y(known.value), places[role]
        # Useful models stand at the right edge: there the names go beside the field, each with a line to its mark.
        beside = across > left + 0.6 * (right - left)
        from_x, to_x = (across + 8, right + 16) if beside else (across + 8, across + 14)
        parts.append(_tag("path", d=f"M{from_x:.1f} {up}L{to_x:.1f} {place:.1f}", class_="leader"))
        parts.append(_tag("text", role, x=to_x + 4, y=place + 4, class_="start name halo"))
    parts.append(_tag("text", f"{x_name} →", x=right, y=height - 20, class_="end axis-name"))
    parts.append(_tag("text", f"{y_name} →", x=0, y=0, class_="end axis-name", transform=f"translate(12 {top}) rotate(-90)"))
    parts.append(_tag("text", "forgot, still useful ↘", x=right - 6, y=bottom - 8, class_="end corner"))
    return _svg(width, height - 10, label, *parts)


class Series(NamedTuple):
    """One curve."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(step, value), by step."""


def curves(series: Sequence[Series], *, label: str, axis: str = "step") -> Markup:
    """Numbers over the steps of a run; `key` names the lines."""
    width, left, right, top, bottom = 400, 46, 348, 10, 190
    steps = [step for line in series for step, _ in line.points]
    values = [value for line in series for _, value in line.points]
    x = Scale(min(steps), max(*steps, min(steps) + 1), left, right)
    y = scale_for(values, (-math.inf, None), bottom, top)
    parts = []
    for tick in y.ticks(4):
        parts.append(_tag("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(_tag("text", _tick(tick), x=left - 7, y=y(tick) + 4, class_="end tick"))
    for tick in x.ticks(4):
        if tick == round(tick):
            parts.append(_tag("text", f"{tick:,.0f}", x=x(tick), y=bottom + 16, class_="middle tick"))
    parts.append(_tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    places = _apart([(y(line.points[-1][1]), line.name) for line in series], 15, top + 4, bottom)
    for index, line in enumerate(series):
        path = "L".join(f"{x(step)} {y(value)}" for step, value in _thinned(line.points))
        step, last = line.points[-1]
        parts.append(
            _tag(
                "g",
                _tag("title", f"{line.name}: {number(line.points[0][1])} at the start, {number(last)} at the end"),
                _tag("path", d=f"M{path}", class_="curve"),
                _tag("circle", cx=x(step), cy=y(last), r=3),
                _tag("text", number(last), x=right + 9, y=places[line.name] + 4, class_="start value"),
                class_=f"series-{index % 4}",
            )
        )
    parts.append(_tag("text", f"{axis} →", x=right, y=bottom + 32, class_="end axis-name"))
    return _svg(width, bottom + 38, label, *parts)


def key(series: Sequence[Series]) -> list[tuple[Markup, str]]:
    """A piece of each line of `curves` and its name, to stand in a line of text."""
    pieces = []
    for index, line in enumerate(series):
        piece = _tag("g", _tag("path", d="M1 5h28", class_="curve"), class_=f"series-{index % 4}")
        pieces.append((_tag("svg", piece, viewBox="0 0 30 10", width=30, height=10, aria_hidden="true"), line.name))
    return pieces


def mark(role: str, x: float, y: float) -> Markup:
    """The mark of a model: disc, diamond, ring, triangle; a square for any other."""
    if role == "target":
        return _tag("circle", cx=x, cy=y, r=5.5, class_="mark")
    if role == "unlearned":
        return _tag("path", d=f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7-7z", class_="mark")
    if role == "retrained":
        return _tag("circle", cx=x, cy=y, r=5, class_="mark ring")
    if role == "shipped":
        return _tag("path", d=f"M{x:.1f} {y - 6.5:.1f}l6.5 12h-13z", class_="mark")
    return _tag("rect", x=x - 5, y=y - 5, width=10, height=10, class_="mark")


def swatch(role: str) -> Markup:
    """The mark of a model on its own, to stand in a line of text; said by the word beside it."""
    drawing = _tag("g", mark(role, 8, 8), class_=model_class(role))
    return _tag("svg", drawing, viewBox="0 0 16 16", width=14, height=14, class_="swatch", aria_hidden="true")


def model_class(role: str) -> str:
    """The CSS class that gives a model its colour."""
    return f"model m-{role}" if role in ROLES else "model m-other"


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of sorted values lies, between neighbours by straight line."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _x_axis(x: Scale, top: float, bottom: float, about: int = 4) -> Markup:
    parts = [_tag("line", x1=x.start, x2=x.end, y1=bottom, y2=bottom, class_="axis")]
    for tick in x.ticks(about):
        parts.append(_tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(_tag("text", _tick(tick), x=x(tick), y=bottom + 16, class_="middle tick"))
    return Markup().join(parts)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    across, down = end[0] - start[0], end[1] - start[1]
    length = math.hypot(across, down)
    if length < 30:
        return Markup()
    along, up = across / length, down / length
    from_x, from_y, to_x, to_y = start[0] + 9 * along, start[1] + 9 * up, end[0] - 11 * along, end[1] - 11 * up
    left = (to_x - 7 * along + 4 * up, to_y - 7 * up - 4 * along)
    right = (to_x - 7 * along - 4 * up, to_y - 7 * up + 4 * along)
    head = f"M{left[0]:.1f} {left[1]:.1f}L{to_x:.1f} {to_y:.1f}L{right[0]:.1f} {right[1]:.1f}"
    return _tag("path", d=f"M{from_x:.1f} {from_y:.1f}L{to_x:.1f} {to_y:.1f}{head}", class_="arrow")


def _apart(wanted: Sequence[tuple[float, str]], gap: float, top: float, bottom: float) -> dict[str, float]:
    """Places for labels near where they are wanted, but never over one another."""
    order = sorted(wanted)
    places: list[float] = []
    for place, _ in order:
        places.append(max(place, places[-1] + gap) if places else max(place, top))
    for index in reversed(range(len(places))):
        limit = bottom if index == len(places) - 1 else places[index + 1] - gap
        places[index] = min(places[index], limit)
    return {name: place for (_, name), place in zip(order, places, strict=True)}


def _thinned(points: Sequence[tuple[float, float]], most: int = 400) -> Sequence[tuple[float, float]]:
    """Every so many points, and the last."""
    step = max(1, math.ceil(len(points) / most))
    return [*points[:-1:step], points[-1]]


def _tick(value: float) -> str:
    short = f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:g}"
    return re.sub(r"e([+-])0*", r"e\1", short).replace("+", "").replace("-", "−")


def _log10(value: float) -> float:
    return math.log10(max(value, 1e-300))


def _svg(width: float, height: float, label: str, *content: Markup) -> Markup:
    box = f"0 0 {width:g} {height:g}"
    return _tag("svg", *content, viewBox=box, role="img", aria_label=label, class_="plot", style=f"max-width:{width * 1.5:g}px")


def _tag(name: str, *content: Markup | str, **attributes: Any) -> Markup:
    """One element; everything that is not already markup is escaped. `class_` → class, `aria_label` → aria-label."""
    words = Markup().join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), f"{value:g}" if isinstance(value, float) else value)
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, words, Markup().join(escape(part) for part in content))
