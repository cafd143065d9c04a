"""Who and what the market is: its settings, written once, and its institutions."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.chain import canonical, settings_digest
from ipfl_flower.ledger.records import ContractError, EnrolmentError, LedgerError

NAME_LENGTH_MAX: Final = 200
NUMBER_MAX: Final = 2**63 - 1
"""Largest integer that a row holds."""


def begin(connection: Connection, settings: Mapping[str, Any], at: float) -> None:
    """Record the market's settings, or see that they are those recorded."""
    for key, value in settings.items():
        try:
            canonical({key: value})
        except (TypeError, ValueError) as error:
            raise LedgerError(f"setting {key!r} is not JSON: {error}") from error
    encoded = canonical(settings)
    recorded = read_settings(connection)
    if recorded is None:
        row = {"id": 0, "settings": encoded, "digest": settings_digest(encoded), "at": at}
        connection.execute(t.market.insert(), row)
    elif canonical(recorded) != encoded:
        changes = "; ".join(_changes(recorded, json.loads(encoded)))
        raise ContractError(
            f"this ledger's market has other settings: {changes}: "
            "restore them, or start a new market with a new ledger"
        )


def read_settings(connection: Connection) -> dict[str, Any] | None:
    """Load the market's settings; None before it began."""
    encoded: str | None = connection.scalar(select(t.market.c.settings))
    return None if encoded is None else json.loads(encoded)


def enrol(
    connection: Connection, name: str, public_key: bytes, samples_cap: int | None, at: float
) -> int:
    """Find the institution with that public key, or add it at the end of the market's order."""
    _check_identity(name, public_key, samples_cap)
    known = t.institutions
    found = connection.execute(select(known).where(known.c.public_key == public_key)).first()
    if found is not None:
        if found.name != name:
            raise EnrolmentError(
                f"the public key given for {name!r} is enrolled as {found.name!r}: "
                "register a key of its own, or use that name"
            )
        if samples_cap is not None and samples_cap != found.samples_cap:
            raise EnrolmentError(
                f"institution {name!r} is enrolled with samples_cap {found.samples_cap}, not "
                f"{samples_cap}, and the ledger is append-only: set samples-max back, or begin "
                "with a new ledger"
            )
        return int(found.id)
    if connection.scalar(select(known.c.id).where(known.c.name == name)) is not None:
        raise EnrolmentError(
            f"the name {name!r} belongs to an institution with another public key: "
            "choose another name, or use the key it was enrolled with"
        )
    number = int(connection.scalar(select(func.count()).select_from(known)) or 0)
    row = {"id": number, "name": name, "public_key": public_key, "samples_cap": samples_cap}
    connection.execute(known.insert(), {**row, "at": at})
    return number


def _check_identity(name: str, public_key: bytes, samples_cap: int | None) -> None:
    if not name.strip() or not name.isprintable() or len(name) > NAME_LENGTH_MAX:
        raise EnrolmentError(
            f"an institution's name has 1 to {NAME_LENGTH_MAX} printable characters, not {name!r}"
        )
    if not public_key:
        raise EnrolmentError(
            f"institution {name!r} has an empty public key: register its key first"
        )
    if samples_cap is not None and not 0 <= samples_cap <= NUMBER_MAX:
        raise EnrolmentError(f"samples_cap of {name!r} is {samples_cap}: give a number of samples")


def _changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Name each setting that differs, nested ones by their dotted path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            where = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{where} is new ({canonical(new[key])})"
            elif key not in new:
                yield f"{where} is missing (was {canonical(old[key])})"
            else:
                yield from _changes(old[key], new[key], where)
    elif canonical(old) != canonical(new):
        yield f"{path} was {canonical(old)}, is {canonical(new)}"
