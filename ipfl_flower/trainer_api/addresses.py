"""Where a trainer listens, who can reach it there, and the files of its TLS."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ipfl_flower.trainer_api.errors import AddressError

_UNIX = "unix://"
# What the kernel takes (sockaddr_un), without the closing zero byte.
_SOCKET_PATH_BYTES_MAX = 107


@dataclass(frozen=True)
class Address:
    """A Unix socket's path, or a host and a port.

    Attributes
    ----------
    socket : Path or None
        Absolute; None: TCP.
    host : str
        A name, an IPv4 address, or an IPv6 address without its brackets.
    port : int
        0: any free one, for a trainer that is about to listen.
    """

    socket: Path | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``unix:///absolute/path``, ``host:port`` or ``[IPv6]:port``.

        Raises
        ------
        AddressError
            It is none of these; says what is.
        """
        if text.startswith(_UNIX):
            path = Path(text.removeprefix(_UNIX))
            if not path.is_absolute():
                raise AddressError(f"address {text!r}: give an absolute path, as in unix:///run/t")
            if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
                raise AddressError(
                    f"address {text!r}: the path of a Unix socket has at most "
                    f"{_SOCKET_PATH_BYTES_MAX} bytes: put it into a folder with a shorter path"
                )
            return cls(socket=path)
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})", text)
        if not found or int(found[3]) > 65535:
            raise AddressError(
                f"address {text!r} is neither unix:///path nor host:port (IPv6: [host]:port)"
            )
        return cls(host=found[1] or found[2], port=int(found[3]))

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it: a Unix socket, or a loopback address."""
        if self.socket is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.socket is not None:
            return f"{_UNIX}{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Tls:
    """PEM files of one side, both of which show a certificate.

    Attributes
    ----------
    ca : Path
        Certificates of the authority that the other side's is checked against.
    certificate, key : Path
        One's own.
    """

    ca: Path
    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return the three files' content.

        Raises
        ------
        AddressError
            One can't be read, or is no PEM file.
        """
        return _pem(self.ca), _pem(self.certificate), _pem(self.key)


def _pem(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AddressError(f"{path} can't be read: {error.strerror}") from error
    if b"-----BEGIN" not in content:
        raise AddressError(f"{path} is not a PEM file")
    return content
