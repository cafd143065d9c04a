"""Flower's own command line, as far as a market needs it."""

import json
import sysconfig
from pathlib import Path

from ipfl_flower.cli.processes import LaunchError, ProcessGroup

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND_DEADLINE_S = 60.0
FLEET_API = "grpc-rere"  # gRPC, request and response


def superlink_command(
    *, certificates: Path, database: Path, fleet_address: str, host: str, port: int
) -> list[str | Path]:
    """Return the command line of a market's SuperLink.

    TLS, node authentication, SQLite, and server apps in processes of their own (process isolation)
    that only the holder of the SuperExec secret can start.

    Parameters
    ----------
    certificates : Path
        The folder of ``ca.pem``, ``server.pem``, ``server.key`` and ``superexec.secret``.
    database : Path
        SQLite; made when missing.
    fleet_address : str
        HOST:PORT for institutions.
    host, port
        For control and runtime.
    """
    return [
        *(SCRIPTS / "flower-superlink", "--isolation", "process"),
        *("--fleet-api-type", FLEET_API, "--fleet-api-address", fleet_address),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", certificates / "ca.pem"),
        *("--ssl-certfile", certificates / "server.pem"),
        *("--ssl-keyfile", certificates / "server.key", "--enable-supernode-auth"),
        *("--superexec-auth-secret-file", certificates / "superexec.secret"),
        *("--database", database),
        "--disable-runtime-dependency-installation",
    ]


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
