"""How a model's answers change with the years between an event and the cutoff, as one SVG file that opens anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from expunge.audit.cutoff import Distance

_STYLE = """
svg { background: #fff; color: #1d2329; font: 12px -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  --soft: #586069; --grid: #ebe9e3; --0: #1858b8; --1: #b3450c; --2: #0f6b6b; --3: #7d389b; }
@media (prefers-color-scheme: dark) { svg { background: #15181c; color: #e6e8ea; --soft: #a3abb4; --grid: #2a2f36;
  --0: #6ea3f0; --1: #e58a55; --2: #2f9a9a; --3: #b98ad0; } }
text { fill: var(--soft); } .name { fill: currentColor; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--grid); } .cutoff { stroke: currentColor; stroke-dasharray: 4 3; opacity: .7; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""
_LEFT, _TOP, _BOTTOM, _STEP = 52.0, 70.0, 270.0, 52.0


def distance_plot(models: Mapping[str, Sequence[Distance]], *, cutoff: str) -> str:
    """A whole SVG document: share of questions declined, by how far their events lie before or after the cutoff.

    Args:
        models: the bins of each model, at most four. A bin is left out where a model was asked nothing.
        cutoff: the first day that is to be unknown, for the title.
    """
    # A model that could not be asked some questions may lack a bin.
    by_ends = {(each.low, each.high): each for found in models.values() for each in found}
    bins = sorted(by_ends.values(), key=lambda each: -math.inf if each.low is None else each.low)
    right = _LEFT + _STEP * max(1, len(bins))
    width, height = right + 20, _BOTTOM + 62

    def y(share: float) -> float:
        return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)

    parts = [f'<text x="8" y="18" class="name" font-weight="600">Declined, by distance from {escape(cutoff)}</text>']
    across = 8.0
    for place, name in enumerate(models):
        parts.append(f'<rect x="{across:g}" y="33" width="14" height="4" style="fill: var(--{place % 4})"/>')
        parts.append(f'<text x="{across + 20:g}" y="40" class="name">{escape(name)}</text>')
        across += 40 + 6.6 * len(name)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{_LEFT:g}" x2="{right:g}" y1="{y(tick):g}" y2="{y(tick):g}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8:g}" y="{y(tick) + 4:g}" class="end">{tick:.0%}</text>')
    middles = [_LEFT + _STEP * (place + 0.5) for place in range(len(bins))]
    for x, each in zip(middles, bins, strict=True):
        parts.append(f'<text x="{x:g}" y="{_BOTTOM + 16:g}" class="middle">{_years(each)}</text>')
        parts.append(f'<text x="{x:g}" y="{_BOTTOM + 32:g}" class="middle">n={each.questions}</text>')
    before = sum(each.high is not None and each.high <= 0 for each in bins)
    if 0 < before < len(bins):
        x = _LEFT + _STEP * before
        parts.append(f'<line x1="{x:g}" x2="{x:g}" y1="{_TOP - 8:g}" y2="{_BOTTOM:g}" class="cutoff"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2:g}" y="{_BOTTOM + 52:g}" class="middle">years from the cutoff</text>')
    for place, (name, found) in enumerate(models.items()):
        colour = f"var(--{place % 4})"
        place_of = {(each.low, each.high): x for x, each in zip(middles, bins, strict=True)}
        points = [(place_of[each.low, each.high], y(each.refused), each) for each in found]
        line = " ".join(f"{x:g},{top:g}" for x, top, _ in points)
        parts.append(f'<polyline points="{line}" class="line" style="stroke: {colour}"/>')
        for x, top, each in points:
            words = f"{name}, {_years(each)} years: {each.refused:.0%} declined, {each.right:.0%} dealt with rightly"
            parts.append(
                f'<circle cx="{x:g}" cy="{top:g}" r="4" style="fill: {colour}"><title>{escape(words)}</title></circle>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{1.4 * width:g}" '
        f'height="{1.4 * height:g}"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _years(each: Distance) -> str:
    def words(years: float) -> str:
        return f"{years:+g}".replace("-", "−") if years else "0"

    if each.low is None and each.high is not None:
        return f"&lt; {words(each.high)}"
    if each.high is None and each.low is not None:
        return f"≥ {words(each.low)}"
    return f"{words(each.low or 0)}…{words(each.high or 0)}"
