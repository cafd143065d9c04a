"""What a study found: plain values, of which `document` makes Markdown and `plots` pictures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

Number: TypeAlias = float | None


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes
    ----------
    title : str
    columns : sequence of str
    rows : sequence of sequence of str
        As long as `columns`.
    note : str
        What is said below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a chart: a value for each place on its x axis, and the spread around it."""

    name: str
    values: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    strong: bool = False


@dataclass(frozen=True)
class Lines:
    """A chart of lines over `xs`; `places` is what these are called, `unit` what values are in."""

    name: str
    title: str
    description: str
    xs: Sequence[float]
    lines: Sequence[Line]
    x_label: str = "round"
    unit: str = ""
    places: Sequence[str] = ()


@dataclass(frozen=True)
class Bars:
    """A chart of bars: by row, and in it by name, a value and its spread (None: none)."""

    name: str
    title: str
    description: str
    rows: Mapping[str, Mapping[str, tuple[float, Number]]]
    unit: str = ""


Chart: TypeAlias = Lines | Bars


@dataclass(frozen=True)
class Finding:
    """What a study found.

    Attributes
    ----------
    name : str
        Of the study.
    title : str
    asked : str
        What was done, in a paragraph.
    said : sequence of str
        What came out, a few sentences that answer what was asked: also what speaks against the
        market.
    tables : sequence of Table
    charts : sequence of Chart
    data : mapping
        The figures behind them, as JSON values.
    details : mapping of str to sequence of str
        What is behind `said`, sentences by setting or by what they are about.
    """

    name: str
    title: str
    asked: str
    said: Sequence[str]
    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Sequence[str]] = field(default_factory=dict)


def unplayed(missing: Mapping[str, str]) -> tuple[list[str], dict[str, list[str]]]:
    """Say which settings were not played, and in detail why: `missing`, by setting."""
    names = [f"`{name}`" for name in missing]
    said = [f"**Not played**: {', '.join(names)}."] if names else []
    return said, {f"`{name}`": [f"**Not played**: {why}"] for name, why in missing.items()}


def percent(value: Number, digits: int = 1) -> str:
    """Say a share in percent; "–" where there is none."""
    return "–" if value is None or not isfinite(value) else f"{100 * value:.{digits}f}"


def figure(value: Number, digits: int = 2) -> str:
    """Say a number; "–" where there is none."""
    # Adding zero takes the sign off a zero.
    return (
        "–" if value is None or not isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"
    )


def signed(value: Number, digits: int = 2) -> str:
    """Say a difference with its sign; "–" where there is none."""
    return (
        "–" if value is None or not isfinite(value) else f"{round(value, digits) + 0.0:+.{digits}f}"
    )


def mean(values: Iterable[Number]) -> Number:
    """Return the mean; None where there is no value, or one isn't known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if found and len(known) == len(found) else None


def deviation(values: Iterable[Number]) -> Number:
    """Return the standard deviation of a sample; None of fewer than two values."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def spread(values: Iterable[Number], digits: int = 1, scale: float = 1.0) -> str:
    """Say mean and standard deviation."""
    found = [None if value is None else scale * value for value in values]
    wide = deviation(found)
    return figure(mean(found), digits) + ("" if wide is None else f" ± {figure(wide, digits)}")
