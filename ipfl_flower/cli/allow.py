"""``ipfl allow``: let an app bundle run at this institution."""

from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.documents import write_file
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.door.allowed import FILE, SHA256, AllowedError, bundle_of, read_allowed


def allow(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The institution's folder.")],
    sha256: Annotated[str, typer.Argument(help="Of the app bundle (FAB), 64 hex digits.")],
    remove: Annotated[
        bool, typer.Option("--remove", help="Let it run no longer: an old version.")
    ] = False,
) -> None:
    """Let an app bundle run here: its client app will see the trainer, and never the data."""
    if remove:
        changed = forbid_bundle(folder, sha256)
        told = "may run here no longer" if changed else "was not allowed anyway"
    else:
        changed = allow_bundle(folder, sha256)
        told = "may run here now" if changed else "was allowed already"
    typer.echo(f"{sha256.strip().lower()} {told}")


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
    wanted = _digest(sha256)
    lines = _lines(folder)
    if wanted in map(bundle_of, lines):
        return False
    _write(folder, [*lines, wanted])
    return True


def forbid_bundle(folder: Path, sha256: str) -> bool:
    """Take a bundle from those that may run; return whether it was among them.

    Raises
    ------
    LaunchError
        As `allow_bundle` does.
    """
    unwanted = _digest(sha256)
    lines = _lines(folder)
    kept = [line for line in lines if bundle_of(line) != unwanted]
    if len(kept) == len(lines):
        return False
    _write(folder, kept)
    return True


def _digest(text: str) -> str:
    digest = text.strip().lower()
    if not SHA256.fullmatch(digest):
        raise LaunchError(f"{text[:80]!r} is no SHA-256: it has 64 hexadecimal digits")
    return digest


def _lines(folder: Path) -> list[str]:
    """Return the lines of the file ``allowed``, which is whole or isn't there yet."""
    if not folder.is_dir():
        raise LaunchError(f"{folder} is no folder: name the one that ipfl join wrote to")
    file = folder / FILE
    if not file.exists():
        return []
    try:
        read_allowed(folder)
    except AllowedError as error:
        raise LaunchError(str(error)) from error
    return file.read_text().splitlines()


def _write(folder: Path, lines: list[str]) -> None:
    write_file(folder / FILE, "".join(f"{line}\n" for line in lines).encode())
