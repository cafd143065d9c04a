"""Lines over rounds, with bands around them and levels to compare with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ipfl_flower.charts.scale import Scale, bounds, finite, spread, ticks, whole_ticks
from ipfl_flower.charts.svg import CHARACTER, FONT, Size, drawing, element, number, short, text
from ipfl_flower.charts.svg import title as pointed_at

Value: TypeAlias = float | None

COLOURS: Final = 8
NAME_LENGTH: Final = 14
POINTS_MAX: Final = 600
"""Points beyond which none is marked."""


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes
    ----------
    name : str
    values : sequence of float or None
        One for each place on the x axis; None or NaN: unknown, the line has a gap.
    low, high : sequence of float or None
        The band around it, as long; empty: none.
    kind : {"line", "strong", "dashed", "faint"}
        Faint ones have no name beside them.
    colour : int or None
        One of `COLOURS`; None: the next.
    """

    name: str
    values: Sequence[Value]
    low: Sequence[Value] = ()
    high: Sequence[Value] = ()
    kind: Literal["line", "strong", "dashed", "faint"] = "line"
    colour: int | None = None


@dataclass(frozen=True)
class Level:
    """A value to compare with, drawn across."""

    name: str
    value: float


@dataclass(frozen=True)
class _End:
    """Where a line ends, and what stands there."""

    at: float
    value: float
    text: str
    kind: str


def line_chart(
    title: str,
    description: str,
    xs: Sequence[float],
    series: Sequence[Series],
    *,
    levels: Sequence[Level] = (),
    show: Callable[[float], str] = "{:,.4g}".format,
    show_tick: Callable[[float], str] = "{:,.6g}".format,
    names: Sequence[str] = (),
    x_label: str = "round",
    limits: tuple[float, float] = (-math.inf, math.inf),
    size: Size | None = None,
) -> str:
    """Draw lines.

    Parameters
    ----------
    title, description : str
        What it shows; for readers aloud, and drawn if `size` says so.
    xs : sequence of float
        Places on the x axis, ascending.
    series : sequence of Series
    levels : sequence of Level
    show, show_tick : callable
        Write a value, and one of the round values on the y axis.
    names : sequence of str
        What the places are called where one points at them; default: `x_label` and the place.
    x_label : str
        What the places are.
    limits : tuple of float
        What no value can be beyond, and so the y axis is not.
    size : Size

    Returns
    -------
    str
        An SVG.
    """
    size = size or Size()
    everything = [
        value
        for item in series
        for values in (item.values, item.low, item.high)
        for value in values
    ]
    low, high = bounds([*everything, *(level.value for level in levels)])
    low, high = max(low, limits[0]), min(high, limits[1])
    painted = _painted(series)
    ends = _ends(painted, levels, xs, show)
    marks = ticks(low, high)
    left = 14 + CHARACTER * FONT * max(len(show_tick(mark)) for mark in marks)
    # Bold letters are wider.
    wide = [len(end.text) * (1.2 if "bold" in end.kind else 1.0) for end in ends]
    right = 16 + CHARACTER * FONT * max([0.0, *wide])
    first, last = (xs[0], xs[-1]) if xs else (0.0, 1.0)
    x = Scale(first, last, left, size.width - right)
    y = Scale(low, high, size.height - 40, size.top + 6)
    body = [
        *_axes(x, y, marks, show_tick, x_label, size),
        *(_band(item, xs, x, y, colour) for item, colour in painted if item.low),
        *(_level(level, x, y) for level in levels),
        *(_line(item, xs, x, y, colour) for item, colour in painted),
    ]
    strong = [(item, colour) for item, colour in painted if item.kind != "faint"]
    if sum(len(finite(item.values)) for item, _ in strong) <= POINTS_MAX:
        said = list(names) or [f"{x_label} {number(place)}" for place in xs]
        for item, colour in strong:
            body += _points(item, xs, x, y, colour, said, show)
    body += _labels(ends, x, y, size)
    if not finite(everything):
        middle = {"x": (x.start + x.end) / 2, "y": (y.start + y.end) / 2}
        nothing = text("Nothing is known.")
        body.append(element("text", nothing, **middle, class_="soft", text_anchor="middle"))
    return drawing(title, description, size, body)


def _painted(series: Sequence[Series]) -> list[tuple[Series, int]]:
    """Give each line a colour: its own, or the next."""
    painted, taken = [], 0
    for item in series:
        if item.colour is not None or item.kind == "faint":
            painted.append((item, COLOURS - 1 if item.colour is None else item.colour))
        else:
            painted.append((item, taken % COLOURS))
            taken += 1
    return painted


def _ends(
    painted: Sequence[tuple[Series, int]],
    levels: Sequence[Level],
    xs: Sequence[float],
    show: Callable[[float], str],
) -> list[_End]:
    """Name each line at its end, in its colour, so that no legend has to be matched."""
    found = []
    for item, colour in painted:
        known = [(at, value) for at, value in zip(xs, item.values, strict=True) if finite([value])]
        if known and item.kind != "faint":
            at, value = known[-1]
            bold = " bold" if item.kind == "strong" else ""
            said = f"{short(item.name, NAME_LENGTH)} {show(value or 0.0)}"
            found.append(_End(at, value or 0.0, said, f"s{colour}{bold}"))
    for level in levels:
        said = f"{short(level.name, NAME_LENGTH)} {show(level.value)}"
        found.append(_End(xs[-1] if xs else 1.0, level.value, said, "soft"))
    return found


def _axes(
    x: Scale, y: Scale, marks: Sequence[float], show: Callable[[float], str], label: str, size: Size
) -> list[str]:
    found = []
    for value in marks:
        place = y(value)
        line = f"M{number(x.start)} {number(place)}H{number(x.end)}"
        found += [
            element("path", d=line, class_="zero" if value == 0 else "grid"),
            element(
                "text",
                text(show(value)),
                x=x.start - 7,
                y=place + 4,
                class_="axis",
                text_anchor="end",
            ),
        ]
    room = int((x.end - x.start) / (3.5 * FONT))
    for whole in whole_ticks(math.ceil(x.low), math.floor(x.high), max(2, min(10, room))):
        spot = {"x": x(whole), "y": size.height - 23}
        found.append(element("text", str(whole), **spot, class_="axis", text_anchor="middle"))
    middle = {"x": (x.start + x.end) / 2, "y": size.height - 6}
    return [*found, element("text", text(label), **middle, class_="axis", text_anchor="middle")]


def _line(item: Series, xs: Sequence[float], x: Scale, y: Scale, colour: int) -> str:
    path = ""
    pen = "M"
    for place, value in zip(xs, item.values, strict=True):
        if not finite([value]):
            pen = "M"
            continue
        # A single point shows as a short stroke.
        path += f"{pen}{number(x(place))} {number(y(value or 0.0))}{'h.1' if pen == 'M' else ''}"
        pen = "L"
    kind = f"line s{colour} {item.kind}"
    return element("path", pointed_at(item.name), d=path, class_=kind)


def _band(item: Series, xs: Sequence[float], x: Scale, y: Scale, colour: int) -> str:
    both = [
        (x(place), y(low), y(high))
        for place, low, high in zip(xs, item.low, item.high, strict=True)
        if low is not None and high is not None and math.isfinite(low + high)
    ]
    there = [f"{number(place)} {number(high)}" for place, _, high in both]
    back = [f"{number(place)} {number(low)}" for place, low, _ in reversed(both)]
    return element(
        "path", d=f"M{'L'.join(there + back)}Z" if both else "", class_=f"band s{colour}"
    )


def _level(level: Level, x: Scale, y: Scale) -> str:
    line = f"M{number(x.start)} {number(y(level.value))}H{number(x.end)}"
    return element("path", pointed_at(level.name), d=line, class_="level")


def _points(
    item: Series,
    xs: Sequence[float],
    x: Scale,
    y: Scale,
    colour: int,
    said: Sequence[str],
    show: Callable[[float], str],
) -> list[str]:
    known = [False, *(bool(finite([value])) for value in item.values), False]
    found = []
    for k, (place, name, value) in enumerate(zip(xs, said, item.values, strict=True)):
        if value is None or not known[k + 1]:
            continue
        # One between two gaps has no line that would show it.
        lone = "" if known[k] or known[k + 2] else " lone"
        found.append(
            element(
                "circle",
                pointed_at(f"{item.name}, {name}: {show(value)}"),
                cx=x(place),
                cy=y(value),
                r=3.4 if item.kind == "strong" else 2.6,
                class_=f"point s{colour}{lone}",
            )
        )
    return found


def _labels(ends: Sequence[_End], x: Scale, y: Scale, size: Size) -> list[str]:
    gap = min(FONT + 1, (size.height - size.top - 30) / max(1, len(ends)))
    places = spread([y(end.value) for end in ends], gap, size.top + 8, size.height - 34)
    labels = []
    for place, end in zip(places, ends, strict=True):
        begin = f"M{number(x(end.at) + 2)} {number(y(end.value))}"
        line = f"{begin}H{number(x.end + 2)}L{number(x.end + 9)} {number(place)}"
        labels += [
            element("path", d=line, class_=f"leader {end.kind}"),
            element(
                "text", text(end.text), x=x.end + 12, y=place + 4.5, class_=f"label {end.kind}"
            ),
        ]
    return labels
