"""``ipfl superlink``: Flower's SuperLink as a market needs it, and a log of who was refused."""

import os
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from ipfl_flower import logs
from ipfl_flower.cli.child import Child, Stop, exit_code, say, wait
from ipfl_flower.cli.fleet import environment
from ipfl_flower.cli.flower_versions import fleet_api
from ipfl_flower.cli.handshakes import TRACERS, Handshakes
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.refusals import Refusal, Refusals, refused_node
from ipfl_flower.cli.superlink_command import superlink_command

FILES = ("ca.pem", "server.pem", "server.key", "superexec.secret")
WARN_DAYS = 30
DAY_S = 86_400.0


def superlink(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="SQLite database and refusals.json go here.")
    ],
    *,
    certificates: Annotated[
        Path, typer.Option(help="What ipfl certs operator made.", show_default=False)
    ],
    fleet_address: Annotated[str, typer.Option(help="HOST:PORT for institutions, gRPC over TLS.")],
    host: Annotated[str, typer.Option(help="Of control and runtime: never public.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of control and runtime.")] = 8000,
) -> None:
    """Run the operator's SuperLink; say and count who is refused at the door."""
    raise typer.Exit(run_superlink(folder, certificates, fleet_address, host, port))


def run_superlink(
    folder: Path, certificates: Path, fleet_address: str, host: str, port: int
) -> int:
    """Run flower-superlink until it ends, and return its exit code.

    Parameters
    ----------
    folder : Path
        For this user alone; a database that is there is gone on with.
    certificates : Path
        A folder with ``ca.pem``, ``server.pem``, ``server.key`` and ``superexec.secret``.
    fleet_address : str
        HOST:PORT at which institutions connect.
    host, port
        Where control and runtime listen: whoever reaches them can start runs.

    Raises
    ------
    LaunchError
        If a file is missing or unreadable, or this Flower would have institutions reach control.
    """
    logs.configure()
    if not fleet_api().own_port:
        raise LaunchError(
            f"Flower {version('flwr')} serves institutions on the port of control and runtime, "
            f"where whoever reaches it can start runs: install flwr 1.39 (docs/reference/flower.md)"
        )
    for name in FILES:
        if not os.access(certificates / name, os.R_OK):
            raise LaunchError(
                f"{certificates / name} is missing or unreadable: "
                f"ipfl certs operator {certificates} makes it"
            )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A volume that an orchestrator mounts belongs to root, and its group is this pod's alone.
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)
    os.umask(0o077)  # The database holds models while a run lasts.
    env = environment(folder / "flower")
    env["GRPC_TRACE"] = ",".join(filter(None, (os.environ.get("GRPC_TRACE"), *TRACERS)))
    env["GRPC_VERBOSITY"] = "INFO"  # Flower's own choice, "error", would silence the tracers.
    refusals = Refusals(folder / "refusals.json", say)
    watch = CertificateWatch(certificates / "server.pem")
    command = superlink_command(
        certificates=certificates,
        database=folder / "superlink.db",
        fleet_address=fleet_address,
        host=host,
        port=port,
    )
    door = Door(refusals)

    def tend() -> None:
        refusals.flush()
        watch.remind()

    with Stop() as stop, Child(command, env, door.read) as child:
        stop.hand_to(child)
        code = wait(child, stop, tend)
    refusals.flush(force=True)
    return exit_code(code)


class Door:
    """Reads what the SuperLink prints: refusals are noted, gRPC's traces swallowed, the rest said.

    Parameters
    ----------
    refusals : Refusals
    """

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._handshakes = Handshakes()

    def read(self, line: str) -> None:
        """Read one line."""
        refusal: Refusal | None
        if self._handshakes.is_trace(line):
            refusal = self._handshakes.read(line)
        else:
            refusal = refused_node(line)
            if refusal is None:
                say(line)
        if refusal is not None:
            self._refusals.note(refusal)


class CertificateWatch:
    """Reminds of a server certificate that will expire: at once, and every day.

    Parameters
    ----------
    file : Path
        PEM; read anew every time, since it may have been renewed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next = float("-inf")

    def remind(self) -> None:
        """Say when the certificate expires, if that is near and wasn't said today."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + DAY_S
        try:
            line = expiry_line(self._file, datetime.now(UTC))
        except (LaunchError, OSError) as error:
            line = f"ipfl: {error}"  # A file that is being renewed must not end the SuperLink.
        if line is not None:
            say(line)


def expiry_line(file: Path, now: datetime) -> str | None:
    """Return a warning if the certificate in `file` expires within `WARN_DAYS` days or has.

    Raises
    ------
    LaunchError
        If it can't be read.
    """
    try:
        end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    except ValueError as error:
        raise LaunchError(f"{file} is no PEM certificate: {error}") from error
    fix = f"ipfl certs operator {file.parent} --renew, then restart the SuperLink"
    if end <= now:
        return (
            f"ipfl: {file} expired on {end:%Y-%m-%d %H:%M} UTC: no institution can connect: {fix}"
        )
    if end - now < timedelta(days=WARN_DAYS):
        days = (end - now).days
        return f"ipfl: {file} expires in {days} days, on {end:%Y-%m-%d %H:%M} UTC: {fix}"
    return None
