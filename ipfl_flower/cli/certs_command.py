"""``ipfl certs``: a CA of one's own and the certificates that a market, or a trainer, needs."""

import secrets
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec

from ipfl_flower.cli.authority import (
    VALID_DAYS,
    Authority,
    certificate_pem,
    hosts_of,
    is_host,
    read_certificate,
)
from ipfl_flower.cli.certs import issue, make_authority, make_server_certificates, write_private
from ipfl_flower.cli.documents import KitError, write_file

certs_app = typer.Typer(no_args_is_help=True, help="Make certificates; no key is ever overwritten.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Of the files; mode 0700 if new.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="A name or IP address that it is reached under; again for more."),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How long the certificates hold.")]
Renew = Annotated[
    bool,
    typer.Option("--renew", help="Make them anew with the CA in DIR, for its keys and hosts."),
]

SECRET = "superexec.secret"  # noqa: S105  # a file's name
NAME_LENGTH_MAX = 64
# Flower's own commands reach the control port on the SuperLink's machine.
LOCAL = ("localhost", "127.0.0.1")


@certs_app.command()
def operator(
    folder: Folder, *, host: Hosts = None, days: Days = VALID_DAYS, renew: Renew = False
) -> None:
    """Make what the SuperLink needs: a CA, a server certificate, and the SuperExec secret."""
    if renew:
        _renew(folder, ["server"], _hosts(host) if host else None, days)
        typer.echo(f"{folder / 'server.pem'}: renewed; restart the SuperLink")
        return
    hosts = list(dict.fromkeys([*_hosts(host), *LOCAL]))
    _refuse_to_overwrite(folder, ["ca", "server"], SECRET)
    make_server_certificates(folder, hosts, days=days)
    write_private(folder / SECRET, secrets.token_hex(32).encode())
    _say_made(folder, "ca.pem", "ca.key", "server.pem", "server.key", SECRET)


@certs_app.command()
def trainer(
    folder: Folder, *, host: Hosts = None, days: Days = VALID_DAYS, renew: Renew = False
) -> None:
    """Make what a trainer and a SuperNode on different machines show each other."""
    if renew:
        _renew(folder, ["trainer", "supernode"], _hosts(host) if host else None, days)
        typer.echo(f"{folder / 'trainer.pem'}, {folder / 'supernode.pem'}: renewed; restart both")
        return
    hosts = _hosts(host)
    _refuse_to_overwrite(folder, ["ca", "trainer", "supernode"])
    authority = make_authority(folder, "ipfl institution CA")
    issue(authority, folder, "trainer", hosts, days=days)
    issue(authority, folder, "supernode", [], days=days)
    _say_made(folder, "ca.pem", "ca.key", "trainer.pem", "trainer.key")
    _say_made(folder, "supernode.pem", "supernode.key")


def _renew(folder: Path, stems: list[str], hosts: list[str] | None, days: int) -> None:
    """Certify the same keys again: a process that starts meanwhile finds a pair that fits."""
    authority = Authority.read(folder)
    renewed = {}
    for stem in stems:
        path = folder / f"{stem}.pem"
        old = read_certificate(path)
        key = old.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise KitError(f"{path} was not made by ipfl certs: renew it as it was made")
        names = [] if stem == "supernode" else hosts or hosts_of(old)
        if stem == "server":
            names = list(dict.fromkeys([*names, *LOCAL]))
        name = names[0] if names else stem
        renewed[path] = certificate_pem(authority.issue(name, key, names, days=days))
    for path, content in renewed.items():
        write_file(path, content)


def _hosts(given: list[str] | None) -> list[str]:
    if not given:
        raise KitError("--host is missing: name the host or IP address that is connected to")
    for host in given:
        # The certificate's own name has 64 characters at most.
        if not is_host(host) or len(host) > NAME_LENGTH_MAX:
            raise KitError(
                f"--host {host!r} is no host name or IP address: without https:// and port"
            )
    return given


def _refuse_to_overwrite(folder: Path, stems: list[str], *more: str) -> None:
    names = [f"{stem}.{kind}" for stem in stems for kind in ("key", "pem")]
    for path in (folder / name for name in [*names, *more]):
        if path.exists() or path.is_symlink():
            raise KitError(f"{path} is there already: take another folder, or see --renew")


def _say_made(folder: Path, *names: str) -> None:
    typer.echo(f"{folder}: {', '.join(names)}")
