"""``ipfl trainer``: becomes the institution's trainer, which this command doesn't import."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.processes import PYTHON, LaunchError

MODULE = "ipfl_flower.trainer.serve"


def trainer(
    institution: Annotated[Path, typer.Argument(help="The institution.toml.")],
    *,
    listen: Annotated[
        str | None,
        typer.Option(help="unix:///path or host:port; default: trainer.sock beside the file."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="The trainer's own, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Of the certificate, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Who signed the clients' certificates, PEM.")
    ] = None,
    socket_group: Annotated[
        str | None, typer.Option(help="A group that may use the Unix socket, too.")
    ] = None,
    waiting_max: Annotated[
        int, typer.Option(min=0, help="Requests that may wait while one is served.")
    ] = 4,
    waiting_s: Annotated[float, typer.Option(min=0, help="How long each may wait.")] = 600.0,
    idle_s: Annotated[
        float, typer.Option(min=0.01, help="How long a client may pause in its stream.")
    ] = 60.0,
    progress_s: Annotated[
        float, typer.Option(min=0.01, help="How often a client is told how far its request is.")
    ] = 2.0,
    grace_s: Annotated[
        float, typer.Option(min=0, help="How long a fit may go on after SIGTERM.")
    ] = 20.0,
) -> None:
    """Serve an institution's trainer to its SuperNode until SIGTERM."""
    if find_spec("torch") is None:
        raise LaunchError("the trainer needs torch: pip install 'ipfl-flower[trainer]'")
    options = {
        "--listen": listen,
        "--certificate": certificate,
        "--key": key,
        "--client-ca": client_ca,
        "--socket-group": socket_group,
        "--waiting-max": waiting_max,
        "--waiting-s": waiting_s,
        "--idle-s": idle_s,
        "--progress-s": progress_s,
        "--grace-s": grace_s,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    # The process is replaced: signals and the exit code are the trainer's own.
    os.execv(sys.executable, [*PYTHON, MODULE, str(institution), *given])  # noqa: S606
