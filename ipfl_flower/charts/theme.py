"""The colours of charts and pages, light and dark, and what a chart is drawn with."""

import re
from collections.abc import Mapping
from typing import Final

LIGHT: Final[Mapping[str, str]] = {
    "paper": "#fbfbf9",
    "card": "#ffffff",
    "ink": "#1c1f23",
    "soft": "#5b626b",
    "line": "#d9dcd8",
    "accent": "#2463b4",
    "good": "#1f7a4d",
    "bad": "#b3372a",
    "bad-paper": "#fdeeec",
    "edge": "#7d8894",
    "s0": "#2463b4",
    "s1": "#c4572a",
    "s2": "#1f8a5b",
    "s3": "#8a4fb0",
    "s4": "#96760c",
    "s5": "#c23b78",
    "s6": "#2f7f8f",
    "s7": "#6b6f76",
    "h1": "#e3edf8",
    "h2": "#c3d9f0",
    "h3": "#98bee5",
    "h4": "#6a9fd6",
    "h5": "#3372b5",
    "h6": "#205c9f",
}

DARK: Final[Mapping[str, str]] = {
    "paper": "#15181b",
    "card": "#1d2125",
    "ink": "#e8eaec",
    "soft": "#a2aab3",
    "line": "#343a41",
    "accent": "#7fb2f5",
    "good": "#62c494",
    "bad": "#f08a7c",
    "bad-paper": "#3a2321",
    "edge": "#8b96a2",
    "s0": "#7fb2f5",
    "s1": "#f0996d",
    "s2": "#62c494",
    "s3": "#c79be8",
    "s4": "#d8b84c",
    "s5": "#f08ab8",
    "s6": "#74c1d2",
    "s7": "#a2aab3",
    "h1": "#20303f",
    "h2": "#264561",
    "h3": "#2d5c88",
    "h4": "#386fa5",
    "h5": "#5c9ada",
    "h6": "#8fbff2",
}

_SERIES: Final = "\n".join(
    f".chart .s{k} {{ stroke: var(--s{k}); }} .chart .bar.s{k}, .chart .band.s{k}, "
    f".chart .point.s{k}, .chart .label.s{k} {{ fill: var(--s{k}); stroke: none; }}"
    for k in range(8)
)
_SHADES: Final = "\n".join(f".chart .h{k} {{ fill: var(--h{k}); }}" for k in range(1, 7))

CHART_CSS: Final = f"""\
.chart text {{ fill: var(--ink); font-size: 13px; stroke: none; }}
.chart .soft, .chart .axis {{ fill: var(--soft); }}
.chart .heading {{ font-size: 22px; font-weight: 600; }}
.chart .grid {{ stroke: var(--line); fill: none; }}
.chart .zero {{ stroke: var(--soft); fill: none; }}
.chart .line {{ fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }}
{_SERIES}
.chart .line.strong {{ stroke-width: 3.4; }}
.chart .line.dashed {{ stroke-dasharray: 5 4; }}
.chart .line.faint {{ stroke-width: 1; stroke-opacity: .28; }}
.chart .band {{ fill-opacity: .18; }}
.chart .point {{ stroke: var(--card); stroke-width: 1; }}
.chart .level {{ stroke: var(--soft); fill: none; stroke-width: 1.6; stroke-dasharray: 7 4; }}
.chart .leader {{ fill: none; stroke-width: 1; stroke-opacity: .6; }}
.chart .leader.soft {{ stroke: var(--soft); }}
.chart .bold, .chart .name, .chart .inside {{ font-weight: 600; }}
.chart .spread {{ stroke: var(--ink); stroke-width: 1.4; fill: none; }}
.chart .edges path {{ fill: none; stroke: var(--edge); stroke-opacity: .8; }}
.chart .edges.dense path {{ stroke-opacity: .5; }}
.chart .arrow {{ fill: var(--edge); }}
.chart .body {{ fill: var(--card); stroke: var(--line); stroke-width: 5; }}
.chart .body.small {{ stroke: var(--soft); stroke-width: 1.5; }}
.chart .body.held {{ stroke: var(--s4); }}
.chart .body.absent {{ stroke: var(--edge); stroke-width: 1.2; stroke-dasharray: 3 3; }}
.chart .share {{ fill: none; stroke: var(--good); stroke-width: 5; stroke-linecap: round; }}
.chart .inside {{ font-size: 12.5px; }}
.chart .field {{ fill: var(--card); stroke: var(--line); }}
{_SHADES}
"""


def variables(theme: Mapping[str, str]) -> str:
    """Write a theme as CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in theme.items())


def filled(theme: Mapping[str, str]) -> str:
    """Write what a chart is drawn with, its colours filled in: for what knows no variables."""
    return re.sub(r"var\(--([\w-]+)\)", lambda found: theme[found[1]], CHART_CSS)
