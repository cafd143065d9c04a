"""A matrix as a field of cells, darker where it holds more."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from ipfl_flower.charts.svg import CHARACTER, FONT, Size, drawing, element, number, short, text
from ipfl_flower.charts.svg import title as pointed_at

SHADES: Final = 6
NAMED_MAX: Final = 40
NAME_LENGTH: Final = 12


def shade(value: float, most: float) -> int:
    """Return how dark a cell is, from 1 to `SHADES`; 0 where there is nothing."""
    if not value > 0 or not most > 0:
        return 0
    return max(1, min(SHADES, math.ceil(SHADES * value / most)))


def heat_map(
    title: str,
    description: str,
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    show: Callable[[float], str] = "{:,.4g}".format,
    size: Size | None = None,
) -> str:
    """Draw a square matrix.

    Parameters
    ----------
    title, description : str
        As in `line_chart`.
    names : sequence of str
        Of rows and columns, which are named up to `NAMED_MAX`.
    values : (m, m)
        Not negative.
    show : callable
        Writes a value.
    size : Size

    Returns
    -------
    str
        An SVG.
    """
    size = size or Size(600.0, 600.0)
    named = len(names) <= NAMED_MAX
    margin = 10 + (CHARACTER * FONT * NAME_LENGTH if named else 0.0)
    top = size.top + margin
    side = min(size.width - margin - 8, size.height - top - 8)
    cell = side / max(1, len(names))
    most = max([0.0, *(value for row in values for value in row)])
    body = [element("rect", x=margin, y=top, width=side, height=side, class_="field")]
    shades: dict[int, list[str]] = {}
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            dark = shade(value, most)
            if dark == 0:
                continue
            x, y = margin + j * cell, top + i * cell
            if named:
                said = f"{names[i]} → {names[j]}: {show(value)}"
                square = {"x": x, "y": y, "width": cell - 0.6, "height": cell - 0.6}
                body.append(element("rect", pointed_at(said), **square, class_=f"h{dark}"))
            else:  # one path a shade: a tenth of the bytes
                w = number(cell)
                square_path = f"M{number(x)} {number(y)}h{w}v{w}h-{w}z"
                shades.setdefault(dark, []).append(square_path)
    body += [element("path", d="".join(d), class_=f"h{k}") for k, d in sorted(shades.items())]
    if named:
        body += _names(names, margin, top, cell)
    return drawing(title, description, size, body)


def _names(names: Sequence[str], margin: float, top: float, cell: float) -> list[str]:
    found = []
    for k, name in enumerate(names):
        said = text(short(name, NAME_LENGTH))
        y = top + (k + 0.5) * cell + 4
        x = margin + (k + 0.5) * cell + 4
        turned = f"rotate(-90 {number(x)} {number(top - 6)})"
        found += [
            element("text", said, x=margin - 6, y=y, class_="axis", text_anchor="end"),
            element("text", said, x=x, y=top - 6, class_="axis", transform=turned),
        ]
    return found
