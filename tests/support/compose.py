"""A compose project for tests: brought up under a name of its own, hurt, watched, taken away."""

import functools
import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.containers import COMMAND_DEADLINE_S, ROOT, TAG, docker

COMPOSE = ROOT / "deploy" / "compose"
UP_DEADLINE_S = 1200.0
# In a container of its own, which nothing that is done to the market's touches.
WATCHER = """
import json, time
from ipfl_flower.cli.status import read_status
from ipfl_flower.ledger import Ledger, LedgerError, State

def look(ledger):
    names = {item.id: item.name for item in ledger.institutions()}
    rounds = [(item.number, item.state) for item in ledger.rounds()]
    settled = {
        number: [names[i] for i in ledger.settlement(number).participants]
        for number, state in rounds if state in (State.SETTLED, State.DELIVERED)
    }
    return read_status(ledger) | {"settled": settled, "states": dict(rounds)}

while True:
    try:
        with Ledger.open("/market/ledger.db", create=False) as ledger:
            while True:
                print(json.dumps(look(ledger)), flush=True)
                time.sleep(0.2)
    except LedgerError:
        print(json.dumps({"round": None, "settled": {}}), flush=True)
        time.sleep(0.2)
"""


@functools.cache
def command() -> tuple[str, ...]:
    """Return how compose is started here: v2 where Docker has it, v1 otherwise."""
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ("docker", "compose") if found.returncode == 0 else ("docker-compose",)


class Project:
    """One compose file, and what a test has otherwise, under a name that nobody else has."""

    def __init__(
        self, file: str, environment: Mapping[str, str], overrides: Sequence[Path] = ()
    ) -> None:
        self.name = f"ipfl-test-{uuid.uuid4().hex[:12]}"
        self._files = [part for each in (COMPOSE / file, *overrides) for part in ("--file", each)]
        self._environment = {"IPFL_TAG": TAG, **environment}

    def compose(self, *arguments: str, deadline_s: float = COMMAND_DEADLINE_S) -> str:
        """Run a compose command to its end and return what it printed."""
        done = self._run(arguments, deadline_s)
        assert done.returncode == 0, f"{' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """Run a compose command that must fail; return what it said."""
        done = self._run(arguments, COMMAND_DEADLINE_S)
        assert done.returncode != 0, f"{' '.join(arguments)}: {done.stdout}"
        return done.stdout + done.stderr

    def _run(
        self, arguments: tuple[str, ...], deadline_s: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command(), "--project-name", self.name, *self._files, *arguments],
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline_s,
        )

    def up(self, *services: str) -> None:
        """Start services and what they depend on."""
        self.compose("up", "--detach", *services, deadline_s=UP_DEADLINE_S)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine says of each of the project's containers, by service."""
        label = f"label=com.docker.compose.project={self.name}"
        ids = docker("ps", "--all", "--quiet", "--filter", label).split()
        found = json.loads(docker("inspect", *ids)) if ids else []
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}

    def container(self, service: str) -> dict[str, Any]:
        """Return what the engine says of a service's container."""
        return self.containers()[service]

    def volume(self, name: str) -> str:
        """Return the name that the engine has for a volume."""
        return f"{self.name}_{name}"

    def python(self, service: str, code: str) -> str:
        """Run Python in a service's container and return what it printed."""
        return docker("exec", self.container(service)["Id"], "python", "-c", code)

    def crash(self, *services: str) -> None:
        """Kill services' processes as a crash does, so that the restart policy holds."""
        found = self.containers()
        processes = [str(found[service]["State"]["Pid"]) for service in services]
        docker(
            *("run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "sh"),
            *(f"ipfl-server:{TAG}", "-c", f"kill -9 {' '.join(processes)}"),
        )

    def wait_for(self, what: str, holds: Callable[[], bool], deadline_s: float) -> None:
        """Wait until something holds of the containers; say what didn't, with the last logs."""
        end = time.monotonic() + deadline_s
        while not holds():
            assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s\n{self.logs()}"
            time.sleep(1.0)

    def logs(self) -> str:
        """Return the last lines of every service."""
        return self.compose("logs", "--no-color", "--tail", "15")[-12000:]


@contextmanager
def project(file: str, overrides: Sequence[Path] = (), **environment: str) -> Iterator[Project]:
    """Give a project of which nothing is left when the block ends."""
    made = Project(file, environment, overrides)
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5", "--remove-orphans")


class Watcher:
    """What a market's ledger says, five times a second."""

    def __init__(self, output: Iterator[str]) -> None:
        self._changed = threading.Condition()
        self._last: dict[str, Any] = {"round": None, "settled": {}}
        self._looks = 0
        threading.Thread(target=self._read, args=(output,), daemon=True).start()

    def _read(self, output: Iterator[str]) -> None:
        for line in output:
            with self._changed:
                self._last, self._looks = json.loads(line), self._looks + 1
                self._changed.notify_all()

    def now(self) -> dict[str, Any]:
        """Return a status that was read after this was called."""
        with self._changed:
            after = self._looks + 1  # the one that is on its way may be older
            assert self._changed.wait_for(lambda: self._looks > after, COMMAND_DEADLINE_S)
            return self._last

    def wait_until(
        self, what: str, holds: Callable[[dict[str, Any]], bool], deadline_s: float
    ) -> dict[str, Any]:
        """Wait until something holds of the status, and return that."""
        with self._changed:
            met = self._changed.wait_for(lambda: holds(self._last), deadline_s)
            assert met, f"{what}: not within {deadline_s:g} s, the market is at {self._last}"
            return self._last


@contextmanager
def watching(market: Project) -> Iterator[Watcher]:
    """Watch a project's ledger, in its volume ``market``, until the block ends."""
    name = f"{market.name}-watcher"
    process = subprocess.Popen(
        [
            *("docker", "run", "--rm", "--name", name, "--network", "none"),
            *("--volume", f"{market.volume('market')}:/market", "--entrypoint", "python"),
            *(f"ipfl-server:{TAG}", "-c", WATCHER),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Watcher(process.stdout)
    finally:
        docker("rm", "--force", name)
        process.wait(COMMAND_DEADLINE_S)
        process.stdout.close()
