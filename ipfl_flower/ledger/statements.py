"""Accounts, derived from the entries: nobody's balance is stored."""

from collections import defaultdict
from typing import Literal

from sqlalchemy import Connection, func, select, union_all

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import Institution, LedgerError, Line, Statement


def read_institutions(connection: Connection) -> list[Institution]:
    """Load all institutions, by id."""
    rows = connection.execute(select(t.institutions).order_by(t.institutions.c.id))
    return [Institution(row.id, row.name, row.public_key, row.samples_cap) for row in rows]


def read_balances(connection: Connection, through: int | None = None) -> dict[str, int]:
    """Sum up each institution's entries, of all rounds or up to round `through`.

    Returns
    -------
    dict of str to int
        Name to micro-credits, in order of id; positive: it has earned more than it has paid.
    """
    balances: dict[int, int] = defaultdict(int)
    for column, sign in ((t.entries.c.payer, -1), (t.entries.c.payee, 1)):
        query = select(column, func.sum(t.entries.c.amount_micro)).group_by(column)
        if through is not None:
            query = query.where(t.entries.c.round <= through)
        for institution, amount in connection.execute(query):
            balances[institution] += sign * int(amount)
    return {i.name: balances[i.id] for i in read_institutions(connection)}


def read_statement(connection: Connection, name: str) -> Statement:
    """List an institution's entries with its running balance.

    Raises
    ------
    LedgerError
        No institution has that name; the message lists those that there are.
    """
    institutions = {i.id: i.name for i in read_institutions(connection)}
    owner = next((i for i, known in institutions.items() if known == name), None)
    if owner is None:
        known = ", ".join(institutions.values()) or "nobody yet"
        raise LedgerError(f"no institution is called {name!r}; in this market: {known}")
    lines: list[Line] = []
    totals: dict[Literal["paid", "earned"], int] = {"paid": 0, "earned": 0}
    for number, payer, payee, amount in read_lines(connection, owner):
        direction: Literal["paid", "earned"] = "paid" if payer == owner else "earned"
        totals[direction] += amount
        other = payee if payer == owner else payer
        balance = totals["earned"] - totals["paid"]
        lines.append(Line(number, institutions.get(other, f"#{other}"), direction, amount, balance))
    paid, earned = totals["paid"], totals["earned"]
    return Statement(name, tuple(lines), paid, earned)


def read_lines(
    connection: Connection, institution: int, first: int | None = None, last: int | None = None
) -> list[tuple[int, int, int, int]]:
    """Load an institution's entries as they were made, of all rounds or from `first` to `last`.

    Returns
    -------
    list of tuple
        Round, payer, payee, micro-credits.
    """
    entries = t.entries.c
    columns = (entries.id, entries.round, entries.payer, entries.payee, entries.amount_micro)
    rounds = []
    if first is not None:
        rounds.append(entries.round >= first)
    if last is not None:
        rounds.append(entries.round <= last)
    # Two queries, each by the index of its column: an OR would leave that to the database's guess.
    both = union_all(
        *(
            select(*columns).where(role == institution, *rounds)
            for role in (entries.payer, entries.payee)
        )
    )
    return [tuple(row[1:]) for row in sorted(connection.execute(both), key=tuple)]
