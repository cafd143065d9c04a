"""Run every check over what is stored, and never stop at the first thing that is wrong."""

from collections.abc import Callable, Iterable

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.chain import round_digests
from ipfl_flower.ledger.checks import BOOK_CHECKS, Book, Link, settlement_faults
from ipfl_flower.ledger.reading import read_states
from ipfl_flower.ledger.records import LedgerError, Problem
from ipfl_flower.ledger.rows import TRANSFER, read_settlement
from ipfl_flower.ledger.statements import read_balances, read_institutions

# What reading rows that were tampered with can raise; of a lost connection see `_raise_if_lost`.
_UNREADABLE = (LedgerError, DBAPIError, ValueError, TypeError)


def problems(
    connection: Connection, health: Callable[[Connection], Iterable[str]]
) -> list[Problem]:
    """List everything that is wrong with the ledger.

    Parameters
    ----------
    connection : Connection
        In one transaction: all checks see the same state.
    health : callable
        What the database itself finds wrong (`sqlite.health`).
    """
    return [
        *_tried("database", lambda: [("database", "database", w) for w in health(connection)]),
        *_tried("ledger", lambda: _check_book(connection)),
        *_tried("settlements", lambda: _check_settlements(connection)),
    ]


def read_book(connection: Connection) -> Book:
    """Load what joins the rounds together, with the digests of the rows as they are now."""
    market = connection.execute(select(t.market)).first()
    transfers = select(t.entries.c.round).where(t.entries.c.kind == TRANSFER).distinct()
    return Book(
        settings=market.settings if market else None,
        digest=market.digest if market else None,
        institutions=read_institutions(connection),
        rounds=sorted(connection.scalars(select(t.rounds.c.number))),
        states=read_states(connection),
        decided=set(connection.scalars(select(t.settlements.c.round))),
        paid=set(connection.scalars(transfers)),
        balances=read_balances(connection),
        links=[
            Link(
                row.round, row.previous, row.digests, row.head, round_digests(connection, row.round)
            )
            for row in connection.execute(select(t.chain).order_by(t.chain.c.round)).all()
        ],
    )


def _check_book(connection: Connection) -> list[tuple[str, str, str]]:
    book = read_book(connection)
    return [(check.__name__, *found) for check in BOOK_CHECKS for found in check(book)]


def _check_settlements(connection: Connection) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for number in sorted(connection.scalars(select(t.settlements.c.round))):
        where = f"round {number}"
        try:
            faults = settlement_faults(read_settlement(connection, number))
            found += [(check, where, what) for check, what in faults]
        except _UNREADABLE as error:
            _raise_if_lost(error)
            found.append(("readable", where, _line(error)))
    return found


def _tried(where: str, check: Callable[[], list[tuple[str, str, str]]]) -> list[Problem]:
    try:
        return [Problem(*found) for found in check()]
    except _UNREADABLE as error:
        _raise_if_lost(error)
        return [Problem("readable", where, f"cannot be read: {_line(error)}")]


def _raise_if_lost(error: Exception) -> None:
    """Raise an error again that says nothing about the rows: the connection was lost."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        raise error


def _line(error: Exception) -> str:
    """Say what happened in one line, without SQLAlchemy's statement and link."""
    return str(error.orig if isinstance(error, DBAPIError) else error)
