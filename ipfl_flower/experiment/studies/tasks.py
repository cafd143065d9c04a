"""Accuracy and utility by task: every setting under every method."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from ipfl_flower.experiment.oracle import Oracle
from ipfl_flower.experiment.play import PRESETS
from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.studies.finding import (
    Bars,
    Finding,
    Line,
    Lines,
    Number,
    Table,
    deviation,
    mean,
    percent,
    signed,
)
from ipfl_flower.experiment.tables import EXPLAINED, HEADINGS, Row, cells, rows

OURS: Final = "ipfl"
LEVEL: Final = 0.0005
"""Accuracies that differ by less are written alike."""

FEW: Final = 3
"""Methods beside the market's that a chart of utilities shows."""


class Standing(Protocol):
    """How accurate a method is on a setting, over seeds; see `tables.Row`."""

    @property
    def setting(self) -> str:
        """Its name."""

    @property
    def method(self) -> str:
        """Its name."""

    @property
    def seeds(self) -> int:
        """How many."""

    @property
    def accuracy(self) -> float:
        """Mean test accuracy in [0, 1]."""

    @property
    def deviation(self) -> float:
        """Its standard deviation over seeds, 0 of one."""

    @property
    def better(self) -> float:
        """Mean test accuracy with the better of the method's model and the trained one."""


def tasks(records: Sequence[Record], missing: Mapping[str, str] | None = None) -> Finding:
    """Sum up records of settings × methods × seeds: the main table.

    Parameters
    ----------
    records : sequence of Record
        As `runner.run` yields them.
    missing : mapping of str to str
        Settings that could not be played, and why.
    """
    table = rows(records)
    names = list(dict.fromkeys(row.setting for row in table))
    by_setting = {name: [row for row in table if row.setting == name] for name in names}
    heads = {name: [r for r in records if r["setting"] == name] for name in names}
    return Finding(
        name="tasks",
        title="Accuracy and utility by task",
        asked=f"{EXPLAINED} *oracle* knows the hidden groups and is no competitor.",
        said=[
            *(verdict(by_setting[name]) for name in names),
            *(f"`{name}`: **not played**: {why}" for name, why in (missing or {}).items()),
        ],
        tables=[
            compared(
                by_setting,
                "Mean test accuracy, percent",
                "Bold: the best, oracle aside. ± is the standard deviation over seeds.",
            ),
            *(_setting(heads[name], by_setting[name]) for name in names),
        ],
        charts=[
            chart
            for name in names
            for chart in (_bars(name, by_setting[name]), _curves(name, heads[name]))
        ],
        data={
            "rows": [
                {
                    "setting": row.setting,
                    "method": row.method,
                    "accuracy": row.accuracy,
                    "deviation": row.deviation,
                    "worst": row.worst,
                    "utility": row.utility,
                }
                for row in table
            ]
        },
    )


def strongest(row: Standing) -> float:
    """Return the higher of a method's two accuracies."""
    return max(row.accuracy, row.better)


def verdict(mine: Sequence[Standing], named: str = "iPFL") -> str:
    """Say plainly whether the market is best on a setting, and by how much it isn't.

    A rival counts by the better of its two columns: as its authors define it, or with the market's
    own choice between what it brings and what was trained. The market is `named` so.
    """
    name = mine[0].setting
    rivals = [row for row in mine if row.method not in (OURS, Oracle.name)]
    ours = next((row for row in mine if row.method == OURS), None)
    if ours is None or not rivals:
        return f"`{name}`: not compared."
    best = max(rivals, key=strongest)
    ahead = ours.accuracy - strongest(best)
    noise = max(ours.deviation, best.deviation)
    how = (
        f"{percent(ours.accuracy)} % against {percent(strongest(best))} % of `{best.method}` "
        f"({signed(100 * ahead, 1)} points"
    )
    if ours.seeds < 2:
        how += ", one seed)"
    else:
        how += f", {'within' if abs(ahead) <= noise else 'beyond'} a standard deviation over seeds)"
    if abs(ahead) < LEVEL:
        return f"`{name}`: {named} is level with the best of the others: {how}."
    if ahead > 0:
        return f"`{name}`: {named} is best: {how}."
    alone = next((row for row in mine if row.method == "local"), None)
    over = (
        ""
        if alone is None
        else f" Over training alone: {signed(100 * (ours.accuracy - alone.accuracy), 1)}."
    )
    return f"`{name}`: **{named} is not best**: {how}.{over}"


def _setting(records: Sequence[Record], mine: Sequence[Row]) -> Table:
    first = records[0]
    seeds = sorted({record["seed"] for record in records})
    data = first["data"] + (", **a stand-in**" if first["stand_in"] else "")
    return Table(
        first["title"],
        HEADINGS,
        [cells(row) for row in mine],
        f"`{first['setting']}`: {len(first['institutions'])} institutions, "
        f"{len(first['rounds'])} rounds, {first['parameters']:,} parameters, "
        f"{first['economics']} economics; seeds {', '.join(map(str, seeds))}. Data: {data}.",
    )


def compared(by_setting: Mapping[str, Sequence[Standing]], title: str, note: str) -> Table:
    """Return the table of settings × methods, the best of a setting, oracle aside, in bold."""
    methods = list(dict.fromkeys(row.method for mine in by_setting.values() for row in mine))
    lines = []
    for name, mine in by_setting.items():
        found = {row.method: row for row in mine}
        rivals = [row.accuracy for row in mine if row.method != Oracle.name]
        lines.append(
            [name, *(_cell(found.get(method), max(rivals, default=0.0)) for method in methods)]
        )
    return Table(title, ("setting", *methods), lines, note)


def _cell(row: Standing | None, best: float) -> str:
    if row is None:
        return "–"
    text = percent(row.accuracy) + (f" ± {percent(row.deviation)}" if row.seeds > 1 else "")
    return f"**{text}**" if row.accuracy == best and row.method != Oracle.name else text


def _bars(name: str, mine: Sequence[Row]) -> Bars:
    return Bars(
        f"tasks-{name}-accuracy",
        f"{name}: accuracy",
        "Mean test accuracy, and that of the institution that is worst off",
        {
            row.method: {
                "mean": (100 * row.accuracy, 100 * row.deviation if row.seeds > 1 else None),
                "worst": (100 * row.worst, None),
            }
            for row in mine
        },
        unit="%",
    )


def _curves(name: str, records: Sequence[Record]) -> Lines:
    curves: dict[str, list[list[Number]]] = {}
    for record in records:
        curves.setdefault(record["method"], []).append(cumulated(record))
    # The market's own, and the others that gain most: twelve lines can't be told apart.
    ours = [method for method in curves if method in PRESETS]
    others = sorted(
        (method for method in curves if method not in PRESETS),
        key=lambda method: -(mean(run[-1] for run in curves[method]) or -np.inf),
    )
    shown = [*ours, *others[:FEW]]
    return Lines(
        f"tasks-{name}-utility",
        f"{name}: utility",
        "Mean over institutions, cumulated over rounds; the market's, and the others' best",
        list(range(1, 1 + len(records[0]["rounds"]))),
        [_line(method, curves[method]) for method in shown],
        unit="credits",
    )


def cumulated(record: Mapping[str, Any]) -> list[Number]:
    """Return the mean utility of honest institutions, cumulated over rounds, credits."""
    honest = [i for i, item in enumerate(record["institutions"]) if item["honest"]]
    total, line = 0.0, []
    for played in record["rounds"]:
        here = mean(played["utilities"][i] for i in honest)
        if here is None:
            return [None] * len(record["rounds"])
        total += here
        line.append(total)
    return list(line)


def _line(method: str, runs: Sequence[Sequence[Number]]) -> Line:
    places = list(zip(*runs, strict=True))
    middle = [mean(values) for values in places]
    wide = [deviation(values) for values in places]
    banded = all(m is not None and w is not None for m, w in zip(middle, wide, strict=True))
    both = list(zip(middle, wide, strict=True))
    return Line(
        method,
        middle,
        [(m or 0.0) - (w or 0.0) for m, w in both] if banded else (),
        [(m or 0.0) + (w or 0.0) for m, w in both] if banded else (),
        strong=method == OURS,
    )
