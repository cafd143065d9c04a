"""``ipfl experiment``: runs settings under methods and seeds, and writes results and a report."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ipfl_flower.experiment.cache import Cache, Damage, write_atomically
from ipfl_flower.experiment.definition import ExperimentError, Setting
from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.report import report
from ipfl_flower.experiment.runner import ALL_METHODS, Plan, Told, run
from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.tables import HEADINGS, cells, rows

RESULTS, REPORT, RUNS = "results.json", "report.md", "runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    given = _parser().parse_args(arguments)
    output: Path = given.output.absolute()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        plan = _plan(given)
        records = _run(plan, output, Console(stderr=True, highlight=False))
        write_atomically(output / RESULTS, json.dumps({"records": records}, allow_nan=False))
        write_atomically(output / REPORT, report(records))
    except (ExperimentError, OSError) as error:
        sys.stderr.write(f"ipfl experiment: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            f"ipfl experiment: interrupted; what was finished is in {output / RUNS}, and the same "
            "command goes on from there\n"
        )
        return 130
    if given.json:
        sys.stdout.write((output / RESULTS).read_text(encoding="utf-8") + "\n")
    else:
        _print(records, output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ipfl experiment")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--methods", default=",".join(ALL_METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("ipfl-experiment"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    return parser


def _plan(given: argparse.Namespace) -> Plan:
    names = list(SETTINGS) if given.all else given.settings
    if not names:
        raise ExperimentError(f"name a setting, or say --all: {', '.join(sorted(SETTINGS))}")
    if given.seeds < 1:
        raise ExperimentError(f"--seeds must be ≥ 1, is {given.seeds}")
    folder: Path | None = given.data_dir
    return Plan(
        settings=names,
        methods=[name.strip() for name in given.methods.split(",")],
        seeds=range(given.seeds),
        quick=given.quick,
        data_dir=None if folder is None else folder.absolute(),
        device=given.device,
    )


def _run(plan: Plan, output: Path, console: Console) -> list[Record]:
    """Run a plan beside a bar that counts methods and their rounds."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(plan))
        rounds = done = 0

        def begins(setting: Setting, method: str, cached: bool) -> None:
            nonlocal rounds
            rounds = setting.rounds
            what = " (done before)" if cached else ""
            line = f"{setting.name}, seed {setting.seed}: {method}{what}"
            progress.update(bar, description=line, completed=done)

        def on_round(number: int) -> None:
            progress.update(bar, completed=done + (number + 1) / rounds)

        def damaged(damage: Damage) -> None:
            progress.console.print(
                f"{damage.path} is damaged ({damage.reason}): it is run again", soft_wrap=True
            )

        records = []
        for record in run(plan, Cache(output / RUNS), Told(begins, on_round, damaged)):
            records.append(record)
            done += 1
            progress.update(bar, completed=done)
    return records


def _print(records: Sequence[Record], output: Path) -> None:
    console = Console(highlight=False)
    table = rows(records)
    for name in dict.fromkeys(row.setting for row in table):
        first = next(record for record in records if record["setting"] == name)
        data = first["data"] + (" — a stand-in" if first["stand_in"] else "")
        shown = Table(title=f"{first['title']}\n{data}", box=None, padding=(0, 2, 0, 0))
        for k, heading in enumerate(HEADINGS):
            shown.add_column(heading, justify="left" if k == 0 else "right", no_wrap=True)
        for row in table:
            if row.setting == name:
                shown.add_row(*cells(row))
        console.print(shown)
    console.print(f"{output / REPORT}, {output / RESULTS}", soft_wrap=True)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
