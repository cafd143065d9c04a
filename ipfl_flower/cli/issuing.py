"""Issuing kits: the time that a kit names grows with its content, so that an old one shows."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfl_flower.cli.kit import Kit
from ipfl_flower.ledger import Ledger

EVENT: Final = "kit"
"""The ledger's events of this kind: name, time and digest of a kit, for each new content."""

_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def issue_kit(ledger: Ledger, key: Ed25519PrivateKey, name: str, **fields: Any) -> Kit:
    """Make an institution's kit: the last one if its content is the same, else a later one.

    Parameters
    ----------
    ledger : Ledger
        Remembers what was issued, and when.
    key : Ed25519PrivateKey
        The operator's.
    name : str
        The institution's.
    **fields
        Of `Kit`, but for `issued`.

    Raises
    ------
    KitError
        A field is not what a kit may hold.
    LedgerError
        The ledger can't be used.
    """
    undated = Kit.signed(key, name=name, issued=_NO_TIME, **fields)
    digest = hashlib.sha256(undated.payload()).hexdigest()
    issued = datetime.now(UTC).replace(microsecond=0)
    if (last := _last(ledger, name)) is not None:
        before, time = last
        if before == digest:
            return Kit.signed(key, name=name, issued=time, **fields)
        issued = max(issued, time + timedelta(seconds=1))
    kit = Kit.signed(key, name=name, issued=issued, **fields)
    ledger.log_event(EVENT, f"{name} {issued.isoformat()} {digest}")
    return kit


def _last(ledger: Ledger, name: str) -> tuple[str, datetime] | None:
    """Return digest and time of the kit that was issued last."""
    for event in reversed(ledger.events()):
        if event.kind == EVENT and event.text.split(" ")[0] == name:
            _, time, digest = event.text.split(" ")
            return digest, datetime.fromisoformat(time)
    return None
