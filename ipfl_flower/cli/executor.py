"""``ipfl executor``: becomes the program that starts server apps, and doesn't import it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.processes import MEMORY, PYTHON

MODULE = "ipfl_flower.cli.server_executor"


def executor_command(runtime: str, secret: Path, ca: Path | None) -> list[str]:
    """Return the command line of the executor.

    Parameters
    ----------
    runtime : str
        ``host:port`` of the SuperLink's Control and Runtime API.
    secret : Path
        The SuperExec secret.
    ca : Path or None
        Who signed the SuperLink's certificate; None: it has no TLS.
    """
    command = [*PYTHON, MODULE, "--runtime", runtime, "--secret", str(secret)]
    return command if ca is None else [*command, "--root-certificates", str(ca)]


def executor(
    *,
    runtime: Annotated[
        str, typer.Option(help="host:port where the SuperLink's control and runtime API listens.")
    ],
    secret: Annotated[Path, typer.Option(help="superexec.secret of `ipfl certs operator`.")],
    root_certificates: Annotated[
        Path | None, typer.Option(help="ca.pem of the market; without it, no TLS.")
    ] = None,
) -> None:
    """Start the server app of each run that the SuperLink has, until SIGTERM."""
    command = executor_command(runtime, secret, root_certificates)
    os.execve(command[0], command, MEMORY | dict(os.environ))  # noqa: S606
