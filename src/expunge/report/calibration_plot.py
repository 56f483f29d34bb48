"""How far each metric can be believed, as one SVG file that opens in any browser or viewer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from expunge.audit.calibration import TRUSTED_AUC, Reliability

_STYLE = """
svg { background: #fff; color: #1d2329; font: 12px -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  --soft: #586069; --grid: #ebe9e3; --trusted: #0f6b6b; --other: #b9b4a8; --relearn: #b3450c; --round: #1858b8; }
@media (prefers-color-scheme: dark) { svg { background: #15181c; color: #e6e8ea; --soft: #a3abb4; --grid: #2a2f36;
  --other: #5b5f64; --trusted: #2f9a9a; --relearn: #e58a55; --round: #6ea3f0; } }
text { fill: var(--soft); } .name { fill: currentColor; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--grid); } .limit { stroke: currentColor; stroke-dasharray: 4 3; opacity: .7; }
.trusted { fill: var(--trusted); } .other { fill: var(--other); } .relearn { fill: var(--relearn); }
.round { fill: none; stroke: var(--round); stroke-width: 2; }
"""
_LEFT, _RIGHT, _TOP, _LANE = 190.0, 560.0, 62.0, 22.0


def calibration_plot(table: Sequence[Reliability]) -> str:
    """A whole SVG document: a bar for each metric's faithfulness, a dot and a ring for its two robustnesses."""
    bottom = _TOP + _LANE * len(table)
    width, height = 610.0, bottom + 26

    def x(value: float) -> float:
        return round(_LEFT + value * (_RIGHT - _LEFT), 1)

    parts = ['<text x="8" y="18" class="name" font-weight="600">How far each metric can be believed</text>']
    parts.append(
        f'<rect x="8" y="32" width="14" height="9" class="trusted"/><text x="28" y="41">faithfulness (AUC), dark from '
        f"{TRUSTED_AUC:g}</text>"
        '<circle cx="216" cy="37" r="4" class="relearn"/><text x="226" y="41">robust to relearning</text>'
        '<circle cx="366" cy="37" r="4.5" class="round"/><text x="376" y="41">robust to 4 bits</text>'
    )
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP - 6:g}" y2="{bottom:g}" class="grid"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 16:g}" class="middle">{tick:g}</text>')
    for row, each in enumerate(table):
        y = _TOP + _LANE * row
        parts.append(f'<text x="{_LEFT - 10:g}" y="{y + 12:g}" class="end name">{escape(each.metric)}</text>')
        parts.append(
            f'<rect x="{_LEFT:g}" y="{y + 2:g}" width="{x(each.auc) - _LEFT:g}" height="13" '
            f'class="{"trusted" if each.trusted else "other"}"><title>AUC {each.auc:.3f}</title></rect>'
        )
        parts.append(f'<text x="{_RIGHT + 10:g}" y="{y + 12:g}" class="name">{each.auc:.2f}</text>')
        if each.relearning is not None:
            parts.append(f'<circle cx="{x(each.relearning)}" cy="{y + 8.5:g}" r="4" class="relearn"/>')
        if each.quantisation is not None:
            parts.append(f'<circle cx="{x(each.quantisation)}" cy="{y + 8.5:g}" r="6" class="round"/>')
    parts.append(f'<line x1="{x(TRUSTED_AUC)}" x2="{x(TRUSTED_AUC)}" y1="{_TOP - 6:g}" y2="{bottom:g}" class="limit"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{1.5 * width:g}" '
        f'height="{1.5 * height:g}">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )
