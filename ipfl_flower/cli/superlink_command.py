"""The one command line of a market's SuperLink: ``ipfl superlink``'s and the demo's."""

from pathlib import Path

from ipfl_flower.cli.flower_versions import FleetApi, fleet_api
from ipfl_flower.cli.processes import PYTHON

MODULE = "ipfl_flower.cli.server_superlink"


def superlink_command(
    *,
    certificates: Path,
    database: Path,
    fleet_address: str,
    host: str,
    port: int,
    api: FleetApi | None = None,
) -> list[str | Path]:
    """Return the command line.

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
        For control and runtime; where Flower has one port for all, `fleet_address` is it.
    api : FleetApi, optional
        Of the installed Flower by default.
    """
    api = api or fleet_api()
    if api.own_port:
        fleet: list[str | Path] = [
            "--fleet-api-type",
            api.name,
            "--fleet-api-address",
            fleet_address,
        ]
    else:
        fleet, (host, _, number) = [], fleet_address.rpartition(":")
        host, port = host.strip("[]"), int(number)
    return [
        *(*PYTHON, MODULE, "--isolation", "process", *fleet),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", certificates / "ca.pem"),
        *("--ssl-certfile", certificates / "server.pem"),
        *("--ssl-keyfile", certificates / "server.key", "--enable-supernode-auth"),
        *("--superexec-auth-secret-file", certificates / "superexec.secret"),
        *("--database", database),
        "--disable-runtime-dependency-installation",
    ]
