"""Accuracy and utility by task: every setting under every method."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from ipfl_flower.experiment.definition import COST, Economics
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
    unplayed,
)
from ipfl_flower.experiment.studies.utility import OURS, accounts, place, table, verdicts
from ipfl_flower.experiment.studies.verdicts import Beside, Standing, verdict
from ipfl_flower.experiment.tables import EXPLAINED, HEADINGS, Row, cells, rows

FEW: Final = 3
"""Methods beside the market's that a chart of utilities shows."""


def tasks(
    records: Sequence[Record],
    missing: Mapping[str, str] | None = None,
    others: Sequence[Record] = (),
) -> Finding:
    """Sum up records of settings × methods × seeds: the main tables.

    Parameters
    ----------
    records : sequence of Record
        As `runner.run` yields them.
    missing : mapping of str to str
        Settings that could not be played, and why.
    others : sequence of Record
        The market's at the economics that aren't the settings' own; what isn't there is left out.
    """
    found = rows(records)
    names = list(dict.fromkeys(row.setting for row in found))
    by_setting = {name: [row for row in found if row.setting == name] for name in names}
    heads = {name: [r for r in records if r["setting"] == name] for name in names}
    both = {name: [*heads[name], *(r for r in others if r["setting"] == name)] for name in names}
    judged = {
        f"`{name}`": [f"Accuracy: {verdict(by_setting[name], heads[name])}", *verdicts(both[name])]
        for name in names
    }
    left_out, why = unplayed(missing or {})
    several = len(names) > 1
    return Finding(
        name="tasks",
        title="Accuracy and utility by task",
        asked=f"{EXPLAINED} *oracle* knows the hidden groups and is no competitor.",
        said=[
            *(_overall(by_setting, both) if several else chain.from_iterable(judged.values())),
            *left_out,
        ],
        tables=[
            compared(
                by_setting,
                "Mean test accuracy, percent",
                "Bold: the best, oracle aside. ± is the standard deviation over seeds.",
            ),
            *(table(both, economics) for economics in COST),
            *(_setting(heads[name], by_setting[name]) for name in names),
        ],
        charts=[
            chart
            for name in names
            for chart in (_bars(name, by_setting[name]), _curves(name, heads[name]))
        ],
        data=_data(found, both),
        details={**(judged if several else {}), **why},
    )


def _data(found: Sequence[Row], both: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    return {
        "rows": [
            {
                "setting": row.setting,
                "method": row.method,
                "accuracy": row.accuracy,
                "deviation": row.deviation,
                "worst": row.worst,
                "utility": row.utility,
            }
            for row in found
        ],
        "economies": [
            {
                "setting": name,
                "method": account.method,
                "economics": economics,
                "utilities": account.utilities,
                "welfares": account.welfares,
            }
            for name, mine in both.items()
            for economics in COST
            for account in accounts(mine, economics)
        ],
    }


def _overall(
    by_setting: Mapping[str, Sequence[Row]], both: Mapping[str, Sequence[Record]]
) -> list[str]:
    """Say on how many settings the market is the best: in accuracy, and in utility."""
    pairs = {name: Beside.of(mine) for name, mine in by_setting.items()}
    methods = {row.method for mine in by_setting.values() for row in mine}
    return [
        _accuracies(
            {name: pair.place for name, pair in pairs.items() if pair is not None},
            one_seed=any(row.seeds < 2 for mine in by_setting.values() for row in mine),
        ),
        *(
            _utilities(economics, both, presets=bool(methods & (PRESETS.keys() - {OURS})))
            for economics in COST
        ),
    ]


def _accuracies(places: Mapping[str, str], *, one_seed: bool) -> str:
    """Say on which settings the market is more accurate than the best of the others."""
    if not places:
        return "Accuracy: not compared."
    names = _by_place(places)
    # Of one seed there is no deviation: whatever is written differently differs.
    more, within = (
        ("", "level with it")
        if one_seed
        else (" by more than one standard deviation", "within one of it")
    )
    return (
        f"Accuracy, of {len(places)} settings{', one seed' if one_seed else ''}: iPFL is above the "
        f"best of the others{more} on {len(names['above'])}, {within} on {len(names['level'])}, "
        f"{_on('below', names['below'])}."
    )


def _utilities(economics: Economics, both: Mapping[str, Sequence[Record]], *, presets: bool) -> str:
    """Say on which settings the market's utility is the highest; with `presets`, or but for one."""
    found = {name: place(mine, economics) for name, mine in both.items()}
    places = {name: it for name, it in found.items() if it is not None}
    what = f"Utility at c = {COST[economics]:g}"
    if not places:
        return f"{what}: not compared."
    names = _by_place(places)
    but = names["but"]
    except_for = f"{_on('but for the market by another preset', but)}, " if presets and but else ""
    return (
        f"{what}, of {len(places)} settings: iPFL's is the highest on {len(names['highest'])}, "
        f"{except_for}{_on('not the highest', names['below'])}."
    )


def _by_place(places: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    found = defaultdict(list)
    for name, it in places.items():
        found[it].append(f"`{name}`")
    return found


def _on(what: str, names: Sequence[str]) -> str:
    return f"**{what} on {len(names)}** ({', '.join(names)})" if names else f"{what} on none"


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
