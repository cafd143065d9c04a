"""``ipfl experiment``: becomes the experiment, which imports torch; this command doesn't."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.processes import PYTHON, LaunchError

MODULE = "ipfl_flower.experiment"


def experiment(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="SETTING…", help="Any wrong name lists them all.")
    ] = None,
    *,
    studies: Annotated[
        list[str] | None,
        typer.Option(
            "--study",
            metavar="NAME",
            help="One of the paper's; repeatable. Any wrong name lists them.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every setting and study.")] = False,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME…", help="Of methods.", show_default="all of them"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many: 0, 1, …", show_default="3, with --quick 1")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small and short: whether it works, not how well.")
    ] = False,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Of each setting; not of gates.", show_default="its own"),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Results, report, and what an interrupted experiment goes on from.")
    ] = Path("ipfl-experiment"),
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the data lies, if not where its task looks.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="In its place, for settings on images: of Hugging Face's hub, or a folder.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where models train.")] = "cpu",
    engine: Annotated[
        str,
        typer.Option(
            metavar="in-process|deployment",
            help="Where the market is played: deployment starts a SuperLink, and a trainer and a "
            "SuperNode for each institution.",
        ),
    ] = "in-process",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Compare the market with other methods, on the same data, steps and seeds, on this machine."""
    if find_spec("torch") is None:
        raise LaunchError("experiments need torch: pip install 'ipfl-flower[demo]'")
    values = {
        "--methods": methods,
        "--seeds": seeds,
        "--rounds": rounds,
        "--output": output,
        "--data-dir": data_dir,
        "--dataset": dataset,
        "--device": device,
        "--engine": engine,
    }
    flags = {"--all": everything, "--quick": quick, "--json": as_json}
    given = [f"{name}={value}" for name, value in values.items() if value is not None]
    given += [name for name, set_ in flags.items() if set_]
    given += [f"--study={name}" for name in studies or []]
    # One thread: two collapse as soon as anything else runs.
    env = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
    command = [*PYTHON, MODULE, *given, "--", *(settings or [])]
    # The process is replaced: signals and the exit code are the experiment's own.
    os.execve(sys.executable, command, env)  # noqa: S606
