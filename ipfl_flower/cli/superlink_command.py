"""The one command line of a market's SuperLink: ``ipfl superlink``'s and the demo's."""

from pathlib import Path

from ipfl_flower.cli.flower import SCRIPTS

FLEET_API = "grpc-rere"  # gRPC, request and response


def superlink_command(
    *, certificates: Path, database: Path, fleet_address: str, host: str, port: int
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
