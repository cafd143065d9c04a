"""An experiment's report in Markdown: what was run on which data, and a table a setting."""

from collections.abc import Sequence

from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.tables import HEADINGS, Row, cells, rows

_EXPLAINED = """\
*accuracy* is the mean test accuracy of the honest institutions in percent, at the round that each
one's own validation data chose; ± is the standard deviation over seeds. *worst* is the institution
that is worst off. *utility* is the mean over institutions, summed over rounds, in credits (payments
cancel in it). *own group* and *noise* are shares of the volume that honest institutions imported:
from their own hidden group, and from those who send nothing of worth.
"""


def report(records: Sequence[Record]) -> str:
    """Return the report of some records as Markdown."""
    parts = ["# Experiments\n", _EXPLAINED]
    table = rows(records)
    for name in dict.fromkeys(row.setting for row in table):
        mine = [record for record in records if record["setting"] == name]
        parts += [_head(mine), _table([row for row in table if row.setting == name])]
    if records:
        parts.append(_foot(records))
    return "\n".join(parts)


def _head(records: Sequence[Record]) -> str:
    first = records[0]
    seeds = sorted({record["seed"] for record in records})
    data = first["data"] + (", **a stand-in**" if first["stand_in"] else "")
    return (
        f"## {first['title']}\n\n"
        f"`{first['setting']}`: {len(first['institutions'])} institutions, "
        f"{len(first['rounds'])} rounds, {first['parameters']:,} parameters, "
        f"{first['economics']} economics; seeds {', '.join(map(str, seeds))}. Data: {data}.\n"
    )


def _table(mine: Sequence[Row]) -> str:
    lines = [HEADINGS, ["---"] + ["--:"] * (len(HEADINGS) - 1), *(cells(row) for row in mine)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _foot(records: Sequence[Record]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in records[0]["versions"].items())
    return f"Made by `ipfl experiment` with {versions}, one thread.\n"
