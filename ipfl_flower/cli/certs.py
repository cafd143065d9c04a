"""Certificates and keys as files: a CA and what it issues, and an institution's node key."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ipfl_flower.cli.authority import VALID_DAYS, Authority, certificate_pem, new_key, private_pem


@dataclass(frozen=True)
class ServerCertificates:
    """The files that a SuperLink's TLS needs.

    Attributes
    ----------
    ca : Path
        The CA's certificate; institutions get this one.
    certificate, key : Path
        The SuperLink's own.
    """

    ca: Path
    certificate: Path
    key: Path


def make_server_certificates(
    folder: Path, hosts: list[str], *, days: int = VALID_DAYS
) -> ServerCertificates:
    """Make a CA and a server certificate for `hosts`.

    Parameters
    ----------
    folder : Path
        Where the PEM files go; made with mode 0700 when missing.
    hosts : list of str
        Host names and IP addresses under which the SuperLink is reached.
    days : int
        How long the server's certificate holds; the CA's holds longer.

    Returns
    -------
    ServerCertificates
    """
    authority = make_authority(folder, "ipfl market CA")
    issue(authority, folder, "server", hosts, days=days)
    return ServerCertificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def make_authority(folder: Path, name: str) -> Authority:
    """Make a CA: ``ca.key`` (mode 0600) and ``ca.pem`` in a folder of mode 0700."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority.make(name)
    write_private(folder / "ca.key", private_pem(authority.key))
    (folder / "ca.pem").write_bytes(certificate_pem(authority.certificate))
    return authority


def issue(
    authority: Authority, folder: Path, stem: str, hosts: list[str], *, days: int = VALID_DAYS
) -> None:
    """Make a key and have it certified: ``STEM.key`` (mode 0600) and ``STEM.pem``.

    Parameters
    ----------
    authority : Authority
    folder : Path
    stem : str
    hosts : list of str
        Of a server; empty: the certificate is a client's.
    days : int
    """
    key = new_key()
    name = hosts[0] if hosts else stem
    certificate = authority.issue(name, key.public_key(), hosts, days=days)
    write_private(folder / f"{stem}.key", private_pem(key))
    (folder / f"{stem}.pem").write_bytes(certificate_pem(certificate))


def make_node_key(path: Path) -> Path:
    """Make an institution's SuperNode key pair (ECDSA P-384, OpenSSH format).

    Parameters
    ----------
    path : Path
        Where the private key goes, with mode 0600; the public key goes beside it as ``.pub``.

    Returns
    -------
    Path
        The public key's file, which the operator registers.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_private(path, private)
    public = path.with_name(f"{path.name}.pub")
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
    return public


def write_private(path: Path, content: bytes) -> None:
    """Write a secret to a new file that only its owner can ever read (mode 0600)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
