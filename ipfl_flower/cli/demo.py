"""``ipfl demo``: a whole market on one machine, over real processes, on real data."""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.demo_folder import demo_folder
from ipfl_flower.cli.fleet import Fleet, Node, environment
from ipfl_flower.cli.live import Watch
from ipfl_flower.cli.processes import PYTHON, LaunchError, ProcessGroup, require_free
from ipfl_flower.cli.result import Baselines, build_result, print_result
from ipfl_flower.ledger import Ledger
from ipfl_flower.settings import Settings

NAMES = ("alder", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine")
# Small institutions gain the most from a market, big ones sell the most.
SAMPLES = (30, 60, 40, 80, 50, 70)
EAGERNESS_PER_SAMPLE = 100.0  # V = 10 credits at the mean size (mechanism.md §1)
COST = 0.05
# λ fits the data, not the mechanism: at its own 1 the paper's market buys across groups here.
DISTANCE_WEIGHT = {"paper": 2.0}
COMMAND_DEADLINE_S = 300.0
# A busy SuperLink may fail to answer once or twice.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class DemoOptions:
    """What can be chosen about a demo.

    Attributes
    ----------
    preset : str
        Of `Settings`.
    rounds, institutions, groups : int
        Institution i is in hidden group i modulo `groups`, which has its own names for the classes.
    seed : int
        Of the data's split and of θ⁰.
    fleet_port : int or None
        Where the SuperLink's gRPC fleet API listens; None: a free port.
    deadline_s : float
        Of a round.
    """

    preset: str = "recommended"
    rounds: int = 6
    institutions: int = 6
    groups: int = 2
    seed: int = 1
    fleet_port: int | None = None
    deadline_s: float = 120.0

    def names(self) -> list[str]:
        """Return the institutions' names."""
        return [
            NAMES[i] if i < len(NAMES) else f"institution-{i + 1}" for i in range(self.institutions)
        ]

    def group(self, institution: int) -> int:
        """Return the hidden group of an institution."""
        return institution % self.groups


def run_demo(options: DemoOptions, path: Path, json_file: Path | None, console: Console) -> None:
    """Run a market from nothing to its result table.

    Parameters
    ----------
    options : DemoOptions
    path : Path
        The demo's folder: keys, logs, ledger, the institutions' own folders.
    json_file : Path, optional
        Where the result goes as JSON too.
    console : Console

    Raises
    ------
    LaunchError
        If the market could not be run to its end; everything that was started has been ended.
    SettingsError
        If an option is out of its range.
    """
    # Whatever is wrong with the input is said before an earlier demo's folder is emptied.
    settings = market_settings(options, path.resolve())
    Settings.read(settings)
    if options.fleet_port is not None:
        require_free(options.fleet_port, "--fleet-port")
    if json_file is not None and not os.access(json_file.resolve().parent, os.W_OK):
        raise LaunchError(f"{json_file} can't be written: name a file in a folder that is yours")
    with demo_folder(path) as folder:
        with (
            tempfile.TemporaryDirectory(prefix="ipfl-") as sockets,
            ProcessGroup(folder / "logs", environment(folder / "flower")) as group,
        ):
            fleet = Fleet(folder, group, Path(sockets), fleet_port=options.fleet_port)
            baselines = _run_market(options, folder, settings, fleet, group, console)
        with Ledger.open(folder / "ledger.db", create=False) as ledger:
            result = build_result(
                ledger,
                preset=options.preset,
                groups={name: options.group(i) for i, name in enumerate(options.names())},
                baselines=baselines,
                transport=fleet.transport,
            )
        # Beside the ledger, where `ipfl report` looks for baselines.
        written = json.dumps(result, indent=2) + "\n"
        (folder / "result.json").write_text(written, encoding="utf-8")
        print_result(result, console)
        console.print(f"look at it with: ipfl ledger show {folder / 'ledger.db'}", soft_wrap=True)
        if json_file is not None:
            json_file.write_text(written, encoding="utf-8")


def _run_market(
    options: DemoOptions,
    folder: Path,
    settings: Mapping[str, Any],
    fleet: Fleet,
    group: ProcessGroup,
    console: Console,
) -> Baselines:
    """Run the fleet and the market, then the baselines; return these."""
    started = time.monotonic()
    files = write_institutions(options, folder)
    run_trainer_module(
        group, "initial", "--task", "digits", "--seed", options.seed, "--out", theta0_file(folder)
    )
    with console.status("starting the SuperLink"):
        fleet.start_superlink()
    app = stage_app(folder / "app")
    with console.status(f"starting {options.institutions} trainers and SuperNodes"):
        nodes = [Node(name, files[name]) for name in options.names()]
        start_nodes(fleet, nodes, group, app)
    market_file = folder / "market.toml"
    market_file.write_text(to_toml(settings), encoding="utf-8")
    with console.status("submitting the market"):
        run = fleet.flower.submit(app, market_file)
    console.print(
        f"{options.institutions} institutions, {fleet.transport}, "
        f"Flower run {run} ({time.monotonic() - started:.0f} s to start)",
        soft_wrap=True,
    )
    ledger, rounds = str(folder / "ledger.db"), options.rounds
    Watch(ledger, group, fleet.flower, rounds, console, patience_s=PATIENCE_S).follow(run)
    with console.status("the same steps alone, and with FedAvg"):
        printed = run_trainer_module(
            group,
            "baselines",
            *[part for file in files.values() for part in ("--institution", file)],
            *("--rounds", options.rounds, "--initial", theta0_file(folder)),
        )
    baselines: Baselines = json.loads(printed)
    return baselines


def start_nodes(fleet: Fleet, nodes: list[Node], group: ProcessGroup, app: Path) -> None:
    """Start trainers and SuperNodes; an interruption ends them, it doesn't wait for them.

    Parameters
    ----------
    fleet : Fleet
    nodes : list of Node
    group : ProcessGroup
        Of the fleet.
    app : Path
        The folder of the app that they allow, which must not change until it is submitted.
    """
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        for node in nodes:
            fleet.start_trainer(node)
        fleet.allow(fleet.flower.bundle(app))
        list(pool.map(fleet.start_node, nodes))
        list(pool.map(fleet.wait_for_trainer, nodes))
    except BaseException:
        group.end()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def market_settings(options: DemoOptions, folder: Path) -> dict[str, Any]:
    """Return the demo's ``market.toml``."""
    return {
        "preset": options.preset,
        "rounds": options.rounds,
        "distance-weight": DISTANCE_WEIGHT.get(options.preset, ""),
        "deadline-s": options.deadline_s,
        "task": "digits",
        "institutions-min": options.institutions,
        "quorum": min(2, options.institutions),
        "ledger": str(folder / "ledger.db"),
        "models-dir": str(folder / "models"),
        "initial-model": str(theta0_file(folder)),
    }


def write_institutions(options: DemoOptions, folder: Path) -> dict[str, Path]:
    """Write each institution's folder with its institution.toml; return the files by name."""
    files = {}
    mean = sum(_samples(i) for i in range(options.institutions)) / options.institutions
    for i, name in enumerate(options.names()):
        file = folder / "institutions" / name / "institution.toml"
        file.parent.mkdir(mode=0o700, parents=True)
        file.write_text(
            f'name = "{name}"\nstate_dir = "state"\ndevice = "cpu"\n\n'
            f"[terms]\ncost = {COST}\neagerness = {EAGERNESS_PER_SAMPLE * mean}\n\n"
            "[training]\niterations = 60\nbatch_size = 16\nlearning_rate = 0.2\n\n"
            '[task]\nname = "digits"\nsplit = "clusters"\n'
            f"institution = {i}\ninstitutions = {options.institutions}\n"
            f"groups = {options.groups}\nsamples = {_samples(i)}\nvalidation = 60\n"
            f"seed = {options.seed}\n",
            encoding="utf-8",
        )
        files[name] = file
    return files


def _samples(institution: int) -> int:
    return SAMPLES[institution % len(SAMPLES)]


def theta0_file(folder: Path) -> Path:
    """Return the file of θ⁰."""
    return folder / "theta0.npz"


def run_trainer_module(group: ProcessGroup, name: str, *arguments: object) -> str:
    """Run a module of the trainer as a process of its own: it loads torch, we don't."""
    module = f"ipfl_flower.trainer.{name}"
    command = [*PYTHON, module, *[str(argument) for argument in arguments]]
    return group.run(name, command, timeout_s=COMMAND_DEADLINE_S)
