"""Bars from a zero line, several to a row, with the spread of what they stand for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ipfl_flower.charts.scale import Scale, bounds, ticks
from ipfl_flower.charts.svg import CHARACTER, FONT, Size, drawing, element, number, short, text
from ipfl_flower.charts.svg import title as pointed_at

NAME_LENGTH: Final = 18


@dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes
    ----------
    name : str
        What it shows; the chart's legend has each name once.
    value : float
    colour : int
        As in a `Series`.
    lane : int
        Bars of a row in different lanes lie below each other.
    low, high : float or None
        The spread of what `value` is the middle of.
    """

    name: str
    value: float
    colour: int = 0
    lane: int = 0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """Bars under one name; `note` is written at the end of the row."""

    name: str
    bars: Sequence[Bar]
    note: str = ""


def bar_chart(
    title: str,
    description: str,
    rows: Sequence[Row],
    *,
    show: Callable[[float], str] = "{:,.4g}".format,
    unit: str = "",
    size: Size | None = None,
) -> str:
    """Draw rows of bars.

    Parameters
    ----------
    title, description : str
        As in `line_chart`.
    rows : sequence of Row
        From top to bottom.
    show : callable
        Writes a value.
    unit : str
        Of the values.
    size : Size
        Rows share its height.

    Returns
    -------
    str
        An SVG.
    """
    size = size or Size(height=56 + 26 * max(1, len(rows)))
    bars = [bar for row in rows for bar in row.bars]
    low, high = bounds(
        [0.0, *(v for bar in bars for v in (bar.value, bar.low, bar.high))], pad=0.04
    )
    if not any(bar.value < 0 for bar in bars):
        low = 0.0
    if not any(bar.value > 0 for bar in bars) and bars:
        high = 0.0 if low < 0 else 1.0
    left = 16 + CHARACTER * FONT * max([0, *(min(len(row.name), NAME_LENGTH) for row in rows)])
    right = 16 + CHARACTER * FONT * max([0, *(len(row.note) for row in rows)])
    x = Scale(low, high, left, size.width - right)
    begin, end = size.top + 22, size.height - 36
    height = (end - begin) / max(1, len(rows))
    body = [*_legend(bars, left, size.top + 10), *_axis(x, begin, end, show, unit)]
    for k, row in enumerate(rows):
        body += _row(row, begin + k * height, height, x, show, size)
    return drawing(title, description, size, body)


def _legend(bars: Sequence[Bar], left: float, y: float) -> list[str]:
    found, x = [], left
    for name, colour in dict.fromkeys((bar.name, bar.colour) for bar in bars):
        found += [
            element("rect", x=x, y=y - 9, width=10, height=10, class_=f"bar s{colour}"),
            element("text", text(name), x=x + 15, y=y, class_="axis"),
        ]
        x += 34 + CHARACTER * FONT * len(name)
    return found


def _axis(x: Scale, begin: float, end: float, show: Callable[[float], str], unit: str) -> list[str]:
    found = []
    for value in ticks(x.low, x.high, max(2, int((x.end - x.start) / 70))):
        line = f"M{number(x(value))} {number(begin)}V{number(end)}"
        place = {"x": x(value), "y": end + 15}
        found += [
            element("path", d=line, class_="zero" if value == 0 else "grid"),
            element("text", text(show(value)), **place, class_="axis", text_anchor="middle"),
        ]
    middle = {"x": (x.start + x.end) / 2, "y": end + 31}
    return [*found, element("text", text(unit), **middle, class_="axis", text_anchor="middle")]


def _row(
    row: Row, y: float, height: float, x: Scale, show: Callable[[float], str], size: Size
) -> list[str]:
    lanes = 1 + max([0, *(bar.lane for bar in row.bars)])
    thick = min(22.0, 0.72 * height) / lanes
    top = y + (height - thick * lanes) / 2
    found = []
    for bar in row.bars:
        place = top + bar.lane * thick
        begin, end = sorted((x(0.0), x(bar.value)))
        found.append(
            element(
                "rect",
                pointed_at(f"{row.name}, {bar.name}: {show(bar.value)}"),
                x=begin,
                y=place,
                width=max(0.0, end - begin),
                height=thick,
                class_=f"bar s{bar.colour}",
            )
        )
        if bar.low is not None and bar.high is not None:
            middle = number(place + thick / 2)
            line = f"M{number(x(bar.low))} {middle}H{number(x(bar.high))}"
            found.append(element("path", d=line, class_="spread"))
    base = y + height / 2 + 4.5
    name = short(row.name, NAME_LENGTH)
    return [
        *found,
        element("text", text(name), x=x.start - 8, y=base, class_="label", text_anchor="end"),
        element(
            "text", text(row.note), x=size.width - 4, y=base, class_="label", text_anchor="end"
        ),
    ]
