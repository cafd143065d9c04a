"""Flower's own command line, as far as a market needs it."""

import hashlib
import json
import os
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ipfl_flower.cli.processes import PYTHON, LaunchError, ProcessGroup

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND_DEADLINE_S = 60.0
UNREGISTERED = "unregistered"


@dataclass(frozen=True)
class RegisteredNode:
    """A SuperNode that a SuperLink knows, or knew.

    Attributes
    ----------
    node : int
        Flower's node id.
    name : str
        Empty: none was given.
    status : str
        ``registered``, ``online``, ``offline`` or `UNREGISTERED`.
    public_key : bytes
        In PEM.
    """

    node: int
    name: str
    status: str
    public_key: bytes


class FlowerCli:
    """Talks to one SuperLink through ``flwr``.

    Parameters
    ----------
    group : ProcessGroup
        Runs the commands; its environment's ``FLWR_HOME`` knows the connection.
    connection : str
        The SuperLink's name in Flower's ``config.toml``.
    """

    def __init__(self, group: ProcessGroup, connection: str) -> None:
        self._group = group
        self._connection = connection

    def register(self, name: str, public_key: Path) -> None:
        """Let the SuperLink know an institution's SuperNode."""
        command = ("supernode", "register", "--name", name, public_key, self._connection)
        self._flwr(f"register-{name}", *command)

    def unregister(self, node: int) -> None:
        """Let the SuperLink refuse a SuperNode from now on; it never takes its key again."""
        self._flwr(f"unregister-{node}", "supernode", "unregister", str(node), self._connection)

    def nodes(self) -> list[RegisteredNode]:
        """List the SuperNodes that the SuperLink knows, or knew."""
        command = [*PYTHON, "ipfl_flower.cli.nodes", self._connection]
        printed = self._group.run("asking for nodes", command, timeout_s=COMMAND_DEADLINE_S)
        try:
            return [
                RegisteredNode(
                    item["node"], item["name"], item["status"], item["public_key"].encode()
                )
                for item in json.loads(printed.splitlines()[-1])
            ]
        except (ValueError, KeyError, IndexError) as error:
            raise LaunchError(f"the SuperLink named no nodes: {printed[-300:]}") from error

    def bundle(self, app: Path) -> str:
        """Return the SHA-256 of the bundle (FAB) that Flower makes of an app's folder.

        The same sources give the same bundle on every machine: names sorted, dates fixed, nothing
        compressed; `submit` sends the same.
        """
        with tempfile.TemporaryDirectory(prefix="ipfl-bundle-") as scratch:
            folder = Path(scratch)
            command: list[str | Path] = [SCRIPTS / "flwr", "build", "--app", app]
            self._group.run("build", command, timeout_s=COMMAND_DEADLINE_S, folder=folder)
            bundles = list(folder.glob("*.fab"))
            if len(bundles) != 1:
                raise LaunchError(f"flwr build made {len(bundles)} bundles of {app}, not one")
            return hashlib.sha256(bundles[0].read_bytes()).hexdigest()

    def submit(self, app: Path, config: Path) -> int:
        """Submit the market's app and return Flower's run id.

        Parameters
        ----------
        app : Path
            A folder with the app's ``pyproject.toml`` and packages (see `cli.bundle`).
        config : Path
            A TOML file of run settings.
        """
        command = ("run", app, self._connection, "--run-config", config, "--format", "json")
        printed = self._flwr("submit", *command)
        try:
            return int(json.loads(printed)["run-id"])
        except (ValueError, KeyError) as error:
            raise LaunchError(f"flwr run answered without a run id: {printed[-300:]}") from error

    def run_status(self, run: int) -> str:
        """Return Flower's status of a run, such as ``running`` or ``finished:failed``."""
        command = ("list", self._connection, "--run-id", str(run), "--format", "json")
        printed = self._flwr("list", *command)
        try:
            return str(json.loads(printed)["runs"][0]["status"])
        except (ValueError, KeyError, IndexError) as error:
            raise LaunchError(f"flwr list answered without a status: {printed[-300:]}") from error

    def stop(self, run: int) -> None:
        """Stop a run, if it is still there."""
        self._flwr("stop", "stop", str(run), self._connection)

    def run_log(self, run: int) -> str:
        """Return the last lines that the server app of a run printed."""
        printed = self._flwr("log", "log", str(run), self._connection, "--show")
        return " | ".join(printed.split("\n")[-8:])

    def _flwr(self, name: str, *arguments: str | Path) -> str:
        return self._group.run(name, [SCRIPTS / "flwr", *arguments], timeout_s=COMMAND_DEADLINE_S)


@contextmanager
def flower_cli(connection: str) -> Iterator[FlowerCli]:
    """Give the command line for a few commands, with the connections of the user's Flower."""
    environment = {
        **os.environ,
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    with (
        tempfile.TemporaryDirectory(prefix="ipfl-flwr-") as scratch,
        ProcessGroup(Path(scratch), environment) as group,
    ):
        yield FlowerCli(group, connection)
