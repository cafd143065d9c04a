"""An experiment's report in Markdown: how it was made, and what each study found."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ipfl_flower.experiment.studies.finding import Finding, Table
from ipfl_flower.experiment.studies.plots import FOLDER

QUICK: Final = (
    "**A quick run**: {rounds}, few samples and institutions. It shows whether everything works; "
    "how well, it doesn't. The gates alone are played at full length.\n"
)


@dataclass(frozen=True)
class About:
    """How a report was made.

    Attributes
    ----------
    command : str
    date : str
    versions : sequence of (name, version)
    seeds : sequence of int
    quick : bool
    rounds : sequence of int
        How many the settings were played with, rising.
    seconds, cpu_seconds : float
        Of this run; what it found in the cache took none.
    cpu_seconds_of_plays : float
        Of all that the report is about, whenever it was played.
    """

    command: str
    date: str
    versions: Sequence[tuple[str, str]]
    seeds: Sequence[int]
    quick: bool
    rounds: Sequence[int]
    seconds: float
    cpu_seconds: float
    cpu_seconds_of_plays: float


def report(findings: Sequence[Finding], about: About) -> str:
    """Return the report as Markdown; charts lie beside it."""
    parts = ["# Experiments\n", _made(about)]
    if about.quick:
        parts.append(QUICK.format(rounds=_rounds(about.rounds)))
    parts += [_contents(findings)] if len(findings) > 1 else []
    parts += [_section(finding) for finding in findings]
    return "\n".join(parts)


def machine() -> str:
    """Return what class of machine this is."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({platform.machine()}), {pages / 2**30:.0f} GiB of memory"


def _made(about: About) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about.versions)
    return (
        f"```sh\n{about.command}\n```\n\n"
        f"{about.date}; {versions}; {machine()}, one thread; "
        f"seeds {', '.join(map(str, about.seeds))}. What is reported took "
        f"{about.cpu_seconds_of_plays:,.0f} CPU seconds to play; this run of the command "
        f"{about.cpu_seconds:,.0f} CPU seconds and {about.seconds:,.0f} s (what was there "
        "already is not played again).\n"
    )


def _rounds(played: Sequence[int]) -> str:
    if not played:
        return "few rounds"
    if played == [1]:
        return "1 round"
    return f"{played[0]} rounds" if len(played) == 1 else f"{played[0]} to {played[-1]} rounds"


def _contents(findings: Sequence[Finding]) -> str:
    said = {f"[{one.title}](#{_anchor(one.title)})": one.said for one in findings}
    return f"## What came out\n\n{_lists(said)}"


def _lists(lines: Mapping[str, Sequence[str]]) -> str:
    return "".join(
        f"* {name}\n" + "".join(f"  * {line}\n" for line in mine) for name, mine in lines.items()
    )


def _anchor(title: str) -> str:
    kept = (sign for sign in title.lower() if sign.isalnum() or sign in " -")
    return "".join(kept).replace(" ", "-")


def _section(finding: Finding) -> str:
    said = "\n".join(f"* {line}" for line in finding.said)
    behind = {name: lines for name, lines in finding.details.items() if lines}
    details = f"### In detail\n\n{_lists(behind)}\n" if behind else ""
    charts = "\n".join(f"![{c.title}]({FOLDER}/{c.name}.svg)" for c in finding.charts)
    tables = "\n".join(_table(table) for table in finding.tables)
    return f"## {finding.title}\n\n{finding.asked}\n\n{said}\n\n{details}{tables}\n{charts}\n"


def _table(table: Table) -> str:
    sides = ["--:" if _numeric(cells) else "---" for cells in zip(*table.rows, strict=True)]
    head = [list(table.columns), sides or ["---"] * len(table.columns)]
    lines = [f"| {' | '.join(map(_cell, line))} |" for line in [*head, *table.rows]]
    note = f"\n{table.note}\n" if table.note else ""
    return f"### {table.title}\n\n" + "\n".join(lines) + f"\n{note}"


def _numeric(cells: Sequence[str]) -> bool:
    """Tell whether a column holds numbers, whatever is around them."""
    return all(re.match(r"[*≤≥+-]*\s*\d|–$", cell) for cell in cells)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
