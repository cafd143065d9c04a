"""Which ends of a connection understand each other: those that speak the same protocol.

A protocol is a whole number that counts up when what travels changes. The package version goes
along for people to read; nothing is decided by it.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

VERSION: Final = "0.1.0"
"""Of ipfl-flower; a bundle has no other way to know its own than what lies in its sources."""

_VERSION = re.compile(r"[0-9A-Za-z.+!-]{1,40}")


@dataclass(frozen=True)
class End:
    """One end of a connection, as it speaks.

    Attributes
    ----------
    name : str
        Such as ``server``.
    protocol : int or None
        None: it names none.
    version : str
        Of its ipfl-flower.
    upgrade : str
        What to do where this is the end that is behind.
    """

    name: str
    protocol: int | None
    version: str
    upgrade: str

    @classmethod
    def heard(cls, name: str, protocol: Any, version: Any, upgrade: str) -> "End":
        """Return the other end from what came over the wire, where anything can come from."""
        known = isinstance(version, str) and _VERSION.fullmatch(version)
        number = protocol if type(protocol) is int and 0 < protocol < 2**31 else None
        return cls(name, number, version if known else "of unknown version", upgrade)

    def __str__(self) -> str:
        number = "no numbered protocol" if self.protocol is None else f"protocol {self.protocol}"
        return f"{number} (ipfl-flower {self.version})"


def mismatch(theirs: End, ours: End) -> str | None:
    """Return one line that says which end is behind and what to do, or None: they fit.

    Parameters
    ----------
    theirs, ours : End
        The other end, and this one.
    """
    if theirs.protocol == ours.protocol:
        return None
    behind = theirs if (theirs.protocol or 0) < (ours.protocol or 0) else ours
    return f"{theirs.name} speaks {theirs}, {ours.name} {ours}: {behind.upgrade}"
