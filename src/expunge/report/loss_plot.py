"""The losses of a run as one SVG file that opens in any browser or viewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from expunge.report.plots import Series, curves, key

_STYLE = """
svg { --soft: #586069; --ink: #1d2329; --grid: #ebe9e3; background: #fff; color: var(--ink);
  font: 12px -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --soft: #a3abb4; --ink: #e6e8ea; --grid: #2a2f36; background: #15181c; } }
text { fill: var(--soft); } .value, .name { fill: var(--ink); } .end { text-anchor: end; } .middle { text-anchor: middle; }
.axis { fill: none; stroke: var(--soft); opacity: .6; } .grid { stroke: var(--grid); }
.series-0 { --m: #b3450c; } .series-1 { --m: #1858b8; } .series-2 { --m: #0f6b6b; } .series-3 { --m: #7d389b; }
.curve { fill: none; stroke: var(--m); stroke-width: 2; stroke-linejoin: round; } .series-1 .curve { stroke-dasharray: 7 3; }
.series-2 .curve { stroke-dasharray: 2 3; } [class^=series] circle { fill: var(--m); }
"""


def loss_plot(trace: Sequence[Mapping[str, float]], names: Mapping[str, str], *, title: str, axis: str = "step") -> str:
    """A whole SVG document.

    Args:
        trace: rows with `step` and some of the columns in `names`, by step.
        names: column → what it is called in the picture, at most four.
        title: stands above the picture.
        axis: what `step` counts.
    """
    lines = [
        Series(name, tuple((row["step"], row[column]) for row in trace if column in row)) for column, name in names.items()
    ]
    lines = [line for line in lines if line.points]
    parts = [f'<text x="8" y="18" class="name" font-weight="600">{escape(title)}</text>']
    across = 8.0
    for drawing, name in key(lines):
        parts.append(f'<svg x="{across}" y="26" width="30" height="10">{drawing}</svg>')
        parts.append(f'<text x="{across + 36}" y="35">{escape(name)}</text>')
        across += 60 + 6.2 * len(name)
    plot = (
        curves(lines, label=f"{title}, nats a token, over the steps" if axis == "step" else title, axis=axis) if lines else ""
    )
    parts.append(f'<svg x="0" y="46" width="400" height="228">{plot}</svg>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 410 280" width="820" height="560"><style>{_STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )
