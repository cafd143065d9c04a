"""The hash chain: each finished round (settled or abandoned) is sealed with the one before it.

    digest(table) = SHA-256 of the table's rows of this round: a JSON array of arrays, rows in order
                    of their key, columns as in `_SEALED`; a float as its exact hexadecimal form
                    (`float.hex`), bytes as their SHA-256
    head          = SHA-256(bytes of the previous head ‖ JSON object {table: digest})

JSON is canonical: sorted keys, no spaces, ASCII. The head before round 0 is the digest of the
market's settings. Wall-clock times are left out: a round that a crash interrupted and that was
settled again has the same head. Digests are taken from what the database gives back, never from
what was meant to be written, so sealing and verifying are the same code.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Select, Table, bindparam, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import LedgerError, State

# Key columns come first, so rows sort by their key; DELIVERED comes after the seal.
_SEALED: Final[Mapping[Table, tuple[str, ...]]] = {
    t.rounds: ("number", "deadline_s", "quorum"),
    t.asked: ("round", "institution"),
    t.institutions: ("id", "name", "public_key", "samples_cap"),
    t.transitions: ("round", "state", "detail"),
    t.reports: (
        "round",
        "institution",
        "samples",
        "cost",
        "eagerness",
        "budget",
        "model_digest",
        "leaving",
        "metrics",
    ),
    t.refusals: ("round", "institution", "attempt", "reason"),
    t.settlements: ("round", "rules", "distances", "fallbacks"),
    t.outcomes: ("round", "institution", "active", "declined", "net_micro", "gain", "utility"),
    t.entries: ("id", "round", "payer", "payee", "amount_micro", "kind", "reverses"),
}


def canonical(value: Any, *, allow_nan: bool = False) -> str:
    """Encode a JSON value in its one canonical form.

    Raises
    ------
    TypeError, ValueError
        The value is not JSON, or not finite unless `allow_nan`.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)


def settings_digest(settings: str) -> str:
    """Hash the market's settings (canonical JSON): the head before round 0."""
    return hashlib.sha256(settings.encode()).hexdigest()


def round_digests(connection: Connection, number: int) -> dict[str, str]:
    """Hash what is stored of round `number`, table by table.

    Returns
    -------
    dict of str to str
        Table name to the SHA-256 of its rows of this round. Of institutions, those asked.
    """
    return {table.name: _digest(connection, table, number) for table in _SEALED}


def next_head(previous: str, digests: str) -> str:
    """Hash a round's digests (canonical JSON) onto the head before it."""
    return hashlib.sha256(bytes.fromhex(previous) + digests.encode()).hexdigest()


def head_before(connection: Connection, number: int) -> str:
    """Look up the head that round `number` builds on.

    Raises
    ------
    LedgerError
        The market has not begun.
    """
    column = t.chain.c.head
    query = select(column).where(t.chain.c.round < number).order_by(t.chain.c.round.desc()).limit(1)
    head: str | None = connection.scalar(query) or connection.scalar(select(t.market.c.digest))
    if head is None:
        raise LedgerError("the market has not begun: call begin(settings) first")
    return head


def seal(connection: Connection, number: int) -> str:
    """Add round `number` to the chain, as it is stored now.

    Returns
    -------
    str
        The new head, 64 hexadecimal digits.
    """
    previous = head_before(connection, number)
    digests = canonical(round_digests(connection, number))
    head = next_head(previous, digests)
    row = {"round": number, "previous": previous, "digests": digests, "head": head}
    connection.execute(t.chain.insert(), row)
    return head


def _digest(connection: Connection, table: Table, number: int) -> str:
    rows = connection.execute(_ROWS[table], {"number": number})
    exact = [[_exact(value) for value in row] for row in sorted(rows, key=tuple)]
    return hashlib.sha256(canonical(exact).encode()).hexdigest()


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value


def _rows_of_round(table: Table) -> Select[Any]:
    """Build the query for the sealed columns of a table's rows of round ``:number``."""
    query = select(*(table.c[name] for name in _SEALED[table]))
    number = bindparam("number", type_=t.rounds.c.number.type)
    if table is t.rounds:
        return query.where(t.rounds.c.number == number)
    if table is t.institutions:
        asked = select(t.asked.c.institution).where(t.asked.c.round == number)
        return query.where(t.institutions.c.id.in_(asked))
    query = query.where(table.c.round == number)
    if table is t.transitions:
        query = query.where(t.transitions.c.state != State.DELIVERED)
    return query


# Built once: SQLAlchemy takes longer to build them than SQLite to run them.
_ROWS: Final = {table: _rows_of_round(table) for table in _SEALED}
