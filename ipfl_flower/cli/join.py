"""``ipfl join-request`` and ``ipfl join``: the institution's side of joining a market."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import hashes

from ipfl_flower.cli.documents import KitError, write_file
from ipfl_flower.cli.kit import KIT_FILE, NAME_PATTERN, Kit
from ipfl_flower.cli.node_keys import (
    FILE,
    fingerprint,
    load_node_key,
    load_or_make_node_key,
    openssh,
)
from ipfl_flower.cli.request import JoinRequest
from ipfl_flower.cli.versions import check_versions
from ipfl_flower.door import allowed

Folder = Annotated[Path, typer.Option("--dir", help="The institution's folder: key and kit.")]


def join_request(
    name: Annotated[str, typer.Argument(help="The institution's name in the market.")],
    folder: Folder = Path(),
) -> None:
    """Make a node key, which stays here, and a request that the operator can admit."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise KitError(
            f"the name {name!r} won't do: 1 to 64 letters, digits, '.', '_' and '-', "
            "the first a letter or digit"
        )
    key, new = load_or_make_node_key(folder)
    path = folder / f"{name}.request.json"
    JoinRequest.signed(name, key).write(path)
    typer.echo(f"{folder / FILE} {'made: it stays on this machine' if new else 'is used again'}")
    typer.echo(f"{path}: send this file to the operator")
    typer.echo(f"fingerprint, to be read out to the operator: {fingerprint(key.public_key())}")


def join(
    kit_file: Annotated[Path, typer.Argument(metavar="KIT", help="What the operator sent.")],
    folder: Folder = Path(),
    operator: Annotated[
        str | None,
        typer.Option(
            help="The operator's public key, 64 hex digits, by another channel; the first time."
        ),
    ] = None,
) -> None:
    """Check a kit, show the market's terms, and take the kit over."""
    kit = Kit.read(kit_file, follow=False)
    before = check_kit(kit, folder, operator)
    for line in terms_lines(kit):
        typer.echo(line)
    if before is not None:
        for line in change_lines(before, kit):
            typer.echo(line)
    for line in take_over(kit, folder):
        typer.echo(line)


def check_kit(kit: Kit, folder: Path, operator: str | None) -> Kit | None:
    """Refuse a kit that isn't for this institution, now, from the operator it knows.

    Parameters
    ----------
    kit : Kit
    folder : Path
        The institution's, with its node key.
    operator : str or None
        The key that must have signed the kit, 64 hexadecimal digits; None only where an earlier
        kit says which.

    Returns
    -------
    Kit or None
        The one that was accepted before.

    Raises
    ------
    KitError
        Says what doesn't fit.
    """
    own = load_node_key(folder).public_key()
    if openssh(own) != kit.public_key:
        raise KitError(
            f"the kit is for another key than {folder / FILE} ({fingerprint(own)}): "
            "use the folder that the request was made in, or send a new request"
        )
    if operator is not None and operator.strip().lower() != kit.operator_key:
        raise KitError(f"the kit is signed by the operator key {kit.operator_key}, not {operator}")
    current = folder / KIT_FILE
    before = Kit.read(current) if current.exists() or current.is_symlink() else None
    if before is None and operator is None:
        raise KitError(
            f"the kit is signed by the operator key {kit.operator_key}, which anybody can have "
            "made: telephone the operator, let it read out the key that ipfl admit printed, "
            "compare, and give what you heard: --operator KEY"
        )
    if before is not None:
        _check_succession(kit, before, current)
    check_versions(kit.versions, "the operator")
    kit.check_time()
    return before


def _check_succession(kit: Kit, before: Kit, current: Path) -> None:
    """Refuse a kit of another operator than the accepted one's, or an older one."""
    if before.operator_key != kit.operator_key:
        raise KitError(
            f"the kit is signed by the operator key {kit.operator_key}, and {current} by "
            f"{before.operator_key}: ask the operator by another channel, and if it is right, "
            f"move {current} away"
        )
    if kit.issued < before.issued:
        raise KitError(
            f"the kit was issued at {kit.issued:%Y-%m-%d %H:%M:%S} UTC, before {current} "
            f"({before.issued:%Y-%m-%d %H:%M:%S} UTC): it is out of date, have the newest one sent"
        )


def take_over(kit: Kit, folder: Path) -> list[str]:
    """Write the kit, its CA, its key and, the first time, the bundles to allow; say so.

    Raises
    ------
    KitError
        A file can't be written, or the list of allowed bundles is damaged.
    """
    kit.write(folder / KIT_FILE)
    write_file(folder / "ca.pem", kit.ca.encode())
    write_file(folder / "operator.key", f"{kit.operator_key}\n".encode())
    lines = [f"{folder}: {KIT_FILE}, ca.pem, operator.key: taken over"]
    listed = folder / allowed.FILE
    if not listed.exists():
        write_file(listed, "".join(f"{bundle}\n" for bundle in kit.bundles).encode())
        lines += [f"{listed}: this app bundle may run here: {bundle}" for bundle in kit.bundles]
    try:
        known = allowed.read_allowed(folder)
    except allowed.AllowedError as error:
        raise KitError(str(error)) from error
    lines += [
        f"the operator's app bundle is new: ipfl allow {folder} {bundle}"
        for bundle in kit.bundles
        if bundle not in known
    ]
    lines.append(f'for institution.toml: operator_key = "{kit.operator_key}"')
    return lines


def terms_lines(kit: Kit) -> list[str]:
    """Say what the institution takes part in."""
    width = max(map(len, kit.terms), default=0)
    return [
        f"{kit.name} takes part in the market at {kit.fleet}, on these terms:",
        # As JSON, in ASCII: it is a stranger's text, on a terminal.
        *(
            f"  {ascii(key)[1:-1]:{width}}  {json.dumps(kit.terms[key])}"
            for key in sorted(kit.terms)
        ),
    ]


def change_lines(before: Kit, kit: Kit) -> list[str]:
    """Say what a new kit changes of what was agreed before."""
    lines = []
    if kit.fleet != before.fleet:
        lines.append(f"changed: the SuperLink is at {kit.fleet}, was at {before.fleet}")
    if kit.ca != before.ca:
        new, old = (item.authority().fingerprint(hashes.SHA256()).hex() for item in (kit, before))
        lines.append(f"changed: the CA's certificate has the SHA-256 {new}, had {old}")
    for key in sorted({*kit.terms, *before.terms}):
        new, old = (
            json.dumps(item.terms[key]) if key in item.terms else "missing"
            for item in (kit, before)
        )
        if new != old:
            lines.append(f"changed: {ascii(key)[1:-1]} is {new}, was {old}")
    return lines
