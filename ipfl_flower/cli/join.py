"""``ipfl join-request`` and ``ipfl join``: the institution's side of joining a market."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.documents import KitError, read_file, write_file
from ipfl_flower.cli.kit import NAME_PATTERN, Kit
from ipfl_flower.cli.node_keys import (
    FILE,
    fingerprint,
    load_node_key,
    load_or_make_node_key,
    openssh,
)
from ipfl_flower.cli.request import JoinRequest
from ipfl_flower.cli.versions import check_versions

KIT_FILE = "kit.json"
ALLOWED_FILE = "allowed"

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
        typer.Option(help="The operator's public key, 64 hex digits, from another channel."),
    ] = None,
) -> None:
    """Check a kit, show the market's terms, and take the kit over."""
    kit = Kit.read(kit_file, follow=False)
    check_kit(kit, folder, operator)
    for line in terms_lines(kit):
        typer.echo(line)
    for line in take_over(kit, folder):
        typer.echo(line)


def check_kit(kit: Kit, folder: Path, operator: str | None) -> None:
    """Refuse a kit that isn't for this institution, now, from the operator it knows.

    Parameters
    ----------
    kit : Kit
    folder : Path
        The institution's, with its node key.
    operator : str or None
        The key that must have signed the kit, 64 hexadecimal digits.

    Raises
    ------
    KitError
        Says what doesn't fit.
    """
    if operator is not None and operator.strip().lower() != kit.operator_key:
        raise KitError(f"the kit is signed by the operator key {kit.operator_key}, not {operator}")
    own = load_node_key(folder).public_key()
    if openssh(own) != kit.public_key:
        raise KitError(
            f"the kit is for another key than {folder / FILE} ({fingerprint(own)}): "
            "use the folder that the request was made in, or send a new request"
        )
    current = folder / KIT_FILE
    if current.exists() or current.is_symlink():
        accepted = Kit.read(current).operator_key
        if accepted != kit.operator_key:
            raise KitError(
                f"the kit is signed by the operator key {kit.operator_key}, and {current} by "
                f"{accepted}: ask the operator by another channel, and if it is right, "
                f"move {current} away"
            )
    check_versions(kit.versions, "the operator")
    kit.check_time()


def take_over(kit: Kit, folder: Path) -> list[str]:
    """Write the kit, its CA, its key and, the first time, the bundles to allow; say so.

    Raises
    ------
    KitError
        A file can't be written.
    """
    kit.write(folder / KIT_FILE)
    write_file(folder / "ca.pem", kit.ca.encode())
    write_file(folder / "operator.key", f"{kit.operator_key}\n".encode())
    allowed = folder / ALLOWED_FILE
    lines = [f"{folder}: {KIT_FILE}, ca.pem, operator.key: taken over"]
    if not allowed.exists():
        write_file(allowed, "".join(f"{bundle}\n" for bundle in kit.bundles).encode())
        lines.append(f"{allowed}: {len(kit.bundles)} app bundle may run here")
    known = _bundles(read_file(allowed, "list of allowed bundles"))
    lines += [
        f"the operator's app bundle is new: ipfl allow {folder} {bundle}"
        for bundle in kit.bundles
        if bundle not in known
    ]
    lines.append(f'for institution.toml: operator_key = "{kit.operator_key}"')
    return lines


def terms_lines(kit: Kit) -> list[str]:
    """Say what the institution takes part in."""
    width = max(len(name) for name in kit.terms)
    return [
        f"{kit.name} takes part in the market at {kit.fleet}, on these terms:",
        # As JSON, in ASCII: it is a stranger's text, on a terminal.
        *(
            f"  {ascii(key)[1:-1]:{width}}  {json.dumps(kit.terms[key])}"
            for key in sorted(kit.terms)
        ),
    ]


def _bundles(content: bytes) -> set[str]:
    lines = content.decode(errors="replace").splitlines()
    return {line.partition("#")[0].strip().lower() for line in lines}
