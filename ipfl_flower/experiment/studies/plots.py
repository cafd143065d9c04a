"""A finding's charts as files: SVG, and PNG where the extra `report` is installed."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ipfl_flower.charts import Bar, Row, Series, Size, bar_chart, line_chart
from ipfl_flower.charts.png import PngError, rasterise
from ipfl_flower.charts.theme import LIGHT, filled
from ipfl_flower.experiment.cache import write_atomically
from ipfl_flower.experiment.studies.finding import Bars, Chart, Finding, Lines

FOLDER: Final = "charts"
SIZE: Final = Size(640.0, 360.0, heading=True)
ROW_HEIGHT: Final = 17.0
"""Of a bar."""
PIXELS: Final = 960
SHOWN: Final = "{:,.3g}".format


def write_charts(finding: Finding, folder: Path) -> None:
    """Write each chart of a finding into `folder`/charts.

    Raises
    ------
    OSError
        A file can't be written.
    """
    for name, svg in drawings(finding):
        write_atomically(folder / FOLDER / f"{name}.svg", alone(svg))
        try:
            png = rasterise(svg, width=PIXELS)
        except PngError:
            continue
        (folder / FOLDER / f"{name}.png").write_bytes(png)


def drawings(finding: Finding) -> Iterator[tuple[str, str]]:
    """Yield name and SVG of each chart of a finding."""
    for chart in finding.charts:
        yield chart.name, draw(chart)


def draw(chart: Chart) -> str:
    """Return a chart as SVG."""
    return _lines(chart) if isinstance(chart, Lines) else _bars(chart)


def alone(svg: str) -> str:
    """Return an SVG with what it is drawn with, for a file of its own: light, as it is printed."""
    paper = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
    style = f"<style>svg {{ font-family: sans-serif; }}\n{filled(LIGHT)}</style>"
    end = svg.index(">") + 1
    return f"{svg[:end]}{style}{paper}{svg[end:]}\n"


def _lines(chart: Lines) -> str:
    return line_chart(
        chart.title + (f", {chart.unit}" if chart.unit else ""),
        chart.description,
        chart.xs,
        [
            Series(
                line.name,
                line.values,
                low=line.low,
                high=line.high,
                kind="strong" if line.strong else "line",
            )
            for line in chart.lines
        ],
        show=SHOWN,
        names=chart.places,
        x_label=chart.x_label,
        size=SIZE,
    )


def _bars(chart: Bars) -> str:
    names = list(dict.fromkeys(name for bars in chart.rows.values() for name in bars))
    rows = [
        Row(
            row,
            [
                Bar(
                    name,
                    value,
                    colour=names.index(name),
                    lane=lane,
                    low=None if wide is None else value - wide,
                    high=None if wide is None else value + wide,
                )
                for lane, (name, (value, wide)) in enumerate(bars.items())
                if math.isfinite(value)
            ],
        )
        for row, bars in chart.rows.items()
    ]
    lanes = sum(max(1, len(bars)) for bars in chart.rows.values())
    size = Size(SIZE.width, 130.0 + ROW_HEIGHT * lanes + 6.0 * len(rows), heading=True)
    return bar_chart(chart.title, chart.description, rows, show=SHOWN, unit=chart.unit, size=size)
