"""A real market for tests: a fleet on loopback and `ipfl run`, which keeps it going."""

import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from support.restarting import RestartingGroup

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.demo import (
    DemoOptions,
    market_settings,
    run_trainer_module,
    start_nodes,
    theta0_file,
    write_institutions,
)
from ipfl_flower.cli.fleet import Fleet, Node, environment
from ipfl_flower.ledger import Ledger, State

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"


@dataclass(frozen=True)
class RealMarket:
    """A market that `ipfl run` has begun.

    Attributes
    ----------
    folder : Path
        Of the ledger, the logs and the institutions' own folders.
    run : Popen
        `ipfl run`; what it prints is in the file ``printed``.
    """

    folder: Path
    run: subprocess.Popen[bytes]

    @property
    def ledger_file(self) -> Path:
        return self.folder / "ledger.db"

    @property
    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def settled(self) -> int:
        """Return how many rounds are settled."""
        if not self.ledger_file.exists():
            return 0
        with Ledger.open(self.ledger_file, create=False) as ledger:
            return sum(item.state in (State.SETTLED, State.DELIVERED) for item in ledger.rounds())

    def wait_until(self, condition: Callable[[], object], deadline_s: float = 240.0) -> None:
        """Wait for `condition`, as long as `ipfl run` runs."""
        end = time.monotonic() + deadline_s
        while not condition():
            assert self.run.poll() is None, self.printed
            assert time.monotonic() < end, f"not within {deadline_s:g} s: {self.printed}"
            time.sleep(0.05)

    def processes(self, program: str) -> list[psutil.Process]:
        """Return the running processes of this market that run a script or module `program`."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = str(self.folder) in process.environ().get("FLWR_HOME", "")
                if not ours or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if program_of(process.cmdline()) == program:
                    found.append(process)
            except (psutil.Error, ValueError, IndexError):
                continue
        return found


def program_of(command: list[str]) -> str | None:
    """Return the script or module that an interpreter was started with."""
    # What a supervisor runs, further right, is not the supervisor.
    rest = iter(command[1:])
    for part in rest:
        if part == "-m":
            return next(rest, None)
        if not part.startswith("-"):
            return part.rpartition("/")[2]
    return None


@contextmanager
def real_market(options: DemoOptions, folder: Path, **settings: object) -> Iterator[RealMarket]:
    """Start a fleet whose processes are restarted when they end, and `ipfl run` on it."""
    env = environment(folder / "flower")
    with (
        tempfile.TemporaryDirectory(prefix="ipfl-") as sockets,
        RestartingGroup(folder / "logs", env) as group,
    ):
        files = write_institutions(options, folder)
        fleet = Fleet(folder, group, Path(sockets))
        run_trainer_module(
            group, "initial", "--task", "digits", "--seed", 1, "--out", theta0_file(folder)
        )
        fleet.start_superlink()
        nodes = [Node(name, file) for name, file in files.items()]
        start_nodes(fleet, nodes, group, stage_app(folder / "app"))
        market = folder / "market.toml"
        market.write_text(to_toml({**market_settings(options, folder), **settings}))
        with (folder / "printed").open("w") as printed:
            run = subprocess.Popen(
                [IPFL, "run", market], env=env, stdout=printed, stderr=subprocess.STDOUT
            )
            try:
                yield RealMarket(folder, run)
            finally:
                run.terminate()
                run.wait()
