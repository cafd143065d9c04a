"""``ipfl experiment``: runs settings and studies, and writes results and a report with charts."""

import argparse
import datetime as dt
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from ipfl_flower.experiment.cache import Cache, write_atomically
from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.play import PRESETS
from ipfl_flower.experiment.record import Record, versions
from ipfl_flower.experiment.report import About, report
from ipfl_flower.experiment.runner import ALL_METHODS, Plan
from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.catalogue import STUDIES, TASKS, find_study
from ipfl_flower.experiment.studies.economies import elsewhere
from ipfl_flower.experiment.studies.finding import Finding
from ipfl_flower.experiment.studies.plots import write_charts
from ipfl_flower.experiment.studies.tasks import tasks
from ipfl_flower.experiment.tables import HEADINGS, cells, rows
from ipfl_flower.experiment.watching import Watching

RESULTS, FINDINGS, REPORT, RUNS = "results.json", "findings.json", "report.md", "runs"
SEEDS: Final = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    given = _parser().parse_args(arguments)
    output: Path = given.output.absolute()
    # SIGINT too: a shell starts background jobs with it ignored. What was started must be ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    began = time.perf_counter()
    try:
        with Watching(Console(stderr=True, highlight=False)) as watching:
            bench = _bench(given, output, watching)
            records, findings = _run(given, bench, watching)
        _write(
            output, records, findings, _about(given, bench, records, time.perf_counter() - began)
        )
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
        _print(records, findings, output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ipfl experiment")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--study", action="append", default=[])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--methods", default=",".join(ALL_METHODS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--output", type=Path, default=Path("ipfl-experiment"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--engine", choices=("in-process", "deployment"), default="in-process")
    parser.add_argument("--json", action="store_true")
    return parser


def _bench(given: argparse.Namespace, output: Path, watching: Watching) -> Bench:
    count = given.seeds if given.seeds is not None else (1 if given.quick else SEEDS)
    if count < 1:
        raise ExperimentError(f"--seeds must be ≥ 1, is {count}")
    if given.rounds is not None and given.rounds < 1:
        raise ExperimentError(f"--rounds must be ≥ 1, is {given.rounds}")
    if given.dataset is not None and given.data_dir is not None:
        raise ExperimentError("--data-dir and --dataset both say where the data is: leave one out")
    if given.dataset is not None and (given.all or given.study):
        raise ExperimentError("--dataset is not for --all and --study: name settings")
    return Bench(
        Cache(output / RUNS),
        seeds=tuple(range(count)),
        quick=given.quick,
        data_dir=None if given.data_dir is None else given.data_dir.absolute(),
        dataset=given.dataset,
        device=given.device,
        told=watching.told,
        rounds=given.rounds,
        named=tuple(given.settings),
    )


def _run(
    given: argparse.Namespace, bench: Bench, watching: Watching
) -> tuple[list[Record], list[Finding]]:
    """Run the studies that are asked for, then the settings."""
    studies = [name.strip() for text in given.study for name in text.split(",")]
    everything = given.all or TASKS in studies
    settings = list(SETTINGS) if everything else given.settings
    chosen = list(STUDIES) if given.all else [name for name in studies if name != TASKS]
    if not settings and not chosen:
        raise ExperimentError(
            f"name a setting, or say --all: {', '.join(sorted(SETTINGS))}; "
            f"or --study NAME: {', '.join((*STUDIES, TASKS))}"
        )
    plan = Plan(
        settings=settings,
        methods=[name.strip() for name in given.methods.split(",")],
        seeds=bench.seeds,
        quick=bench.quick,
        data_dir=bench.data_dir,
        dataset=bench.dataset,
        device=bench.device,
        engine=given.engine,
        rounds=bench.rounds,
    )
    found = []
    for name, study in [(name, find_study(name)) for name in chosen]:
        with watching.part(f"study {name}"):
            found.append(study(bench))
    records: list[Record] = []
    missing: dict[str, str] = {}
    if settings:
        with watching.part("", of=len(plan)):
            # Who asks for all wants what there is; who names a setting wants that one.
            for record in bench.run(plan, missing if everything else None):
                records.append(record)
                watching.advance()
        # After the gates, before what looks at single questions.
        with watching.part("other economics"):
            markets = [method for method in plan.methods if method in PRESETS]
            there = [name for name in settings if name not in missing]
            others = list(elsewhere(bench, there, markets))
        found.insert(1 if "gates" in chosen else 0, tasks(records, missing, others))
    return records, found


def _about(
    given: argparse.Namespace, bench: Bench, records: Sequence[Record], seconds: float
) -> About:
    times = os.times()
    played = {len(record["rounds"]) for record in records}
    return About(
        command=_command(given),
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        versions=list(versions().items()),
        seeds=bench.seeds,
        quick=bench.quick,
        rounds=sorted(played if bench.rounds is None else {bench.rounds}),
        seconds=seconds,
        cpu_seconds=times.user + times.system + times.children_user + times.children_system,
        cpu_seconds_of_plays=bench.cache.cpu_seconds,
    )


def _command(given: argparse.Namespace) -> str:
    """Return the command as anybody would type it: without folders of this machine."""
    parts = ["ipfl", "experiment", *given.settings]
    parts += [f"--study={name}" for name in given.study]
    parts += ["--all"] if given.all else []
    parts += [f"--methods={given.methods}"] if given.methods != ",".join(ALL_METHODS) else []
    parts += [f"--seeds={given.seeds}"] if given.seeds is not None else []
    parts += ["--quick"] if given.quick else []
    parts += [f"--rounds={given.rounds}"] if given.rounds is not None else []
    parts += [f"--engine={given.engine}"] if given.engine != "in-process" else []
    parts += [f"--device={given.device}"] if given.device != "cpu" else []
    for option, where in (("--data-dir", given.data_dir), ("--dataset", given.dataset)):
        if where is not None:
            parts.append(f"{option}={'DIR' if Path(where).is_absolute() else where}")
    if not given.output.is_absolute():
        parts.append(f"--output={given.output}")
    return shlex.join(parts)


def _write(
    output: Path, records: Sequence[Record], findings: Sequence[Finding], about: About
) -> None:
    for finding in findings:
        write_charts(finding, output)
    data = {
        finding.name: {"said": finding.said, "details": finding.details, **finding.data}
        for finding in findings
    }
    write_atomically(output / FINDINGS, json.dumps(data, allow_nan=False, indent=1))
    write_atomically(output / RESULTS, json.dumps({"records": records}, allow_nan=False))
    write_atomically(output / REPORT, report(findings, about))


def _print(records: Sequence[Record], findings: Sequence[Finding], output: Path) -> None:
    console = Console(highlight=False)
    table = rows(records)
    for name in dict.fromkeys(row.setting for row in table):
        first = next(record for record in records if record["setting"] == name)
        data = first["data"] + (" — a stand-in" if first["stand_in"] else "")
        shown = Table(title=f"{first['title']}\n{data}", box=None, padding=(0, 1, 0, 0))
        for k, heading in enumerate(HEADINGS):
            shown.add_column(heading, justify="left" if k == 0 else "right", no_wrap=True)
        for row in table:
            if row.setting == name:
                shown.add_row(*cells(row))
        console.print(shown)
    for finding in findings:
        console.print(f"{finding.title}", style="bold")
        for line in finding.said:
            console.print(f"  {line}", markup=False)
    console.print(f"{output / REPORT}, {output / RESULTS}", soft_wrap=True)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
