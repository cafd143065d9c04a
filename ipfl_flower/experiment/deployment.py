"""Plays the market as it is deployed: a SuperLink, and each institution's trainer and SuperNode.

All are real processes on this machine, which talk gRPC over TLS and know each other by their keys;
what came of it is read from the ledger, as of a market that is played in this process.
"""

import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeAlias

import tomli_w
from rich.console import Console

from ipfl_flower.cli.bundle import stage_app
from ipfl_flower.cli.demo import start_nodes
from ipfl_flower.cli.fleet import Fleet, Node, environment
from ipfl_flower.cli.live import Watch
from ipfl_flower.cli.processes import LaunchError, ProcessGroup
from ipfl_flower.experiment.definition import ExperimentError, Setting
from ipfl_flower.experiment.play import (
    OnRound,
    Play,
    failures,
    looks_of,
    market_table,
    read_market,
)
from ipfl_flower.experiment.world import RandomLabels, World
from ipfl_flower.ledger import Ledger
from ipfl_flower.settings import Settings
from ipfl_flower.trainer.arrays import write_arrays

Says: TypeAlias = Callable[[str], None]

# A failure is told at once: these bound what hangs. Institutions share this machine's processors.
DEADLINES: Final[Mapping[str, float]] = {"deadline-s": 1800.0, "join-deadline-s": 300.0}
# A busy SuperLink may fail to answer once or twice.
PATIENCE_S: Final = 60.0
# Names of files, sockets and SuperNodes.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")
_RANDOM_LABELS: Final = f"{RandomLabels.__module__}:{RandomLabels.__name__}"


def play_deployed(
    world: World, preset: str, folder: Path, on_round: OnRound, says: Says = lambda _: None
) -> Play:
    """Play the market on real SuperNodes; see `play.play_market`, of which this is the twin.

    Parameters
    ----------
    world : World
        Its institutions are written as files, and read, trained and judged by trainers.
    preset : str
    folder : Path
        Empty; takes ledger, keys, logs and the institutions' own folders.
    on_round : callable
        Is told the number of each round that is settled.
    says : callable
        Is told in a line how far the processes are.

    Returns
    -------
    Play
        Its CPU time is that of the processes that were started, less what ended without notice.

    Raises
    ------
    ExperimentError
        An institution can't be deployed, a process failed, or the ledger isn't what it should be.
        All processes have been ended; their logs are kept, and the message says where.
    """
    require_deployable(world.setting)
    table = {**DEADLINES, **market_table(world, preset, folder)}
    settings = Settings.read(table)
    began, cpu_before = time.perf_counter(), _cpu_seconds()
    try:
        with (
            # Names of Unix sockets must be short.
            tempfile.TemporaryDirectory(prefix="ipfl-") as sockets,
            ProcessGroup(folder / "logs", environment(folder / "flower")) as group,
        ):
            fleet = Fleet(folder, group, Path(sockets))
            _run_market(world, settings, table, folder, fleet, group, on_round, says)
    except LaunchError as error:
        why = _failures(settings)
        raise ExperimentError(f"{error}{why}; logs: {_keep_logs(folder / 'logs')}") from error
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - cpu_before
    with Ledger.open(settings.ledger, create=False) as ledger:
        rounds, net, kept = read_market(ledger, world, settings)
    return Play(rounds, net, seconds, cpu_seconds, kept, "deployment", looks_of(rounds))


def require_deployable(setting: Setting) -> None:
    """Check that each institution of a setting can be a trainer and a SuperNode.

    Raises
    ------
    ExperimentError
        Names the seat, and what to do.
    """
    for seat in setting.seats:
        if seat.attack is not None:
            raise ExperimentError(
                f"{seat.name} sends {seat.attack!r} in place of its model, and a deployed trainer "
                "what it trained: run this setting without --engine deployment"
            )
        if not _NAME.fullmatch(seat.name):
            raise ExperimentError(
                f"an institution is called {seat.name!r}: to be deployed, its name must have 1 to "
                "48 ASCII letters, digits, _, . and -"
            )


def write_institutions(world: World, folder: Path) -> list[Node]:
    """Write each institution's folder, with its institution.toml, in the order of the seats."""
    nodes = []
    for seat, institution in zip(world.setting.seats, world.institutions, strict=True):
        file = folder / "institutions" / seat.name / "institution.toml"
        file.parent.mkdir(mode=0o700, parents=True)
        terms, sgd = asdict(institution.terms), asdict(institution.sgd)
        table = {
            "name": seat.name,
            "state_dir": "state",
            "device": institution.device,
            "terms": {name: float(value) for name, value in terms.items()}
            | {"samples": institution.terms.samples},
            "training": {"optimizer": institution.sgd.name}
            | {name: value for name, value in sgd.items() if value is not None},
            "task": {"name": _RANDOM_LABELS, "of": seat.task} if seat.random_labels else seat.task,
        }
        file.write_text(tomli_w.dumps(table), encoding="utf-8")
        nodes.append(Node(seat.name, file))
    return nodes


def _run_market(
    world: World,
    settings: Settings,
    table: Mapping[str, Any],
    folder: Path,
    fleet: Fleet,
    group: ProcessGroup,
    on_round: OnRound,
    says: Says,
) -> None:
    """Start the fleet, submit the market, and follow it to its end."""
    nodes = write_institutions(world, folder)
    write_arrays(settings.initial_model, world.initial)
    says("starting the SuperLink")
    fleet.start_superlink()
    app = stage_app(folder / "app")
    says(f"starting {len(nodes)} trainers and SuperNodes")
    start_nodes(fleet, nodes, group, app)
    _enrol(nodes, settings, fleet)
    market_file = folder / "market.toml"
    market_file.write_text(tomli_w.dumps(table), encoding="utf-8")
    run = fleet.flower.submit(app, market_file)
    says(f"{len(nodes)} institutions, {fleet.transport}, Flower run {run}")
    with (folder / "logs" / "market.log").open("w", encoding="utf-8") as log:
        Watch(
            settings.ledger,
            group,
            fleet.flower,
            settings.rounds,
            Console(file=log, markup=False, highlight=False),
            patience_s=PATIENCE_S,
            on_settled=on_round,
        ).follow(run)


def _enrol(nodes: list[Node], settings: Settings, fleet: Fleet) -> None:
    """Enter the institutions in the ledger in the order of the seats.

    A market enrols whom it doesn't know in the order of their keys, which are new in each play; and
    the order decides between equals, and in which order sums are rounded.
    """
    keys = {node.name: node.public_key for node in fleet.flower.nodes()}
    with Ledger.open(settings.ledger) as ledger:
        for node in nodes:
            ledger.enrol(node.name, keys[node.name], samples_cap=settings.samples_max)


def _failures(settings: Settings) -> str:
    if not Path(settings.ledger).exists():
        return ""
    with Ledger.open(settings.ledger, create=False) as ledger:
        return failures(ledger)


def _keep_logs(logs: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="ipfl-experiment-logs-"))
    return Path(shutil.copytree(logs, kept, dirs_exist_ok=True))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
