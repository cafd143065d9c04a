"""``ipfl allow``: let an app bundle run at this institution."""

from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.documents import write_file
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.door.allowed import FILE, SHA256, AllowedError, read_allowed


def allow(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The institution's folder.")],
    sha256: Annotated[str, typer.Argument(help="Of the app bundle (FAB), 64 hex digits.")],
) -> None:
    """Let an app bundle run here: its client app will see the trainer, and never the data."""
    new = allow_bundle(folder, sha256)
    typer.echo(f"{sha256.strip().lower()} {'may run here now' if new else 'was allowed already'}")


def allow_bundle(folder: Path, sha256: str) -> bool:
    """Add a bundle to those that may run; return whether it is new.

    Parameters
    ----------
    folder : Path
        Where ``ipfl join`` wrote the kit. A SuperNode that runs takes notice at its next message.
    sha256 : str
        Of the bundle's bytes, 64 hexadecimal digits.

    Raises
    ------
    LaunchError
        If `sha256` is no SHA-256, `folder` isn't there, or the file ``allowed`` is damaged.
    """
    text = sha256.strip().lower()
    if not SHA256.fullmatch(text):
        raise LaunchError(f"{sha256[:80]!r} is no SHA-256: it has 64 hexadecimal digits")
    if not folder.is_dir():
        raise LaunchError(f"{folder} is no folder: name the one that ipfl join wrote to")
    file = folder / FILE
    before = ""
    if file.exists():
        try:
            if text in read_allowed(folder):
                return False
        except AllowedError as error:
            raise LaunchError(str(error)) from error
        before = file.read_text()
        if before and not before.endswith("\n"):
            before += "\n"
    write_file(file, f"{before}{text}\n".encode())
    return True
