"""Rounds as they went, for those who draw a market over time: a few queries for many rounds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import CompoundSelect, Connection, Select, Table, func, literal, select, union_all

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import State
from ipfl_flower.ledger.rows import TRANSFER

_Parts: TypeAlias = dict[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a settled round was worth to one institution; `gain` and `utility` are credits."""

    active: bool
    declined: bool
    gain: float
    utility: float


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """How one round went.

    Attributes
    ----------
    number, quorum : int
        Its number, and the reports needed to settle it.
    deadline_s : float
        Seconds allowed from the start of collecting.
    steps : mapping of State to float
        When it reached each state, seconds since 1970.
    detail : str or None
        Why it was abandoned.
    asked : tuple of int
        Institution ids, ascending.
    failed : mapping of int to str
        Who has not reported and whose reply was refused or failed, with the last reason.
    reported : mapping of int to float
        When each report came, seconds since 1970.
    metrics : mapping of int to mapping
        What each report says of itself.
    outcomes : mapping of int to Outcome
        By institution; empty until the round is settled.
    paid, earned : mapping of int to int
        Sums of the round's entries, corrections included, micro-credits.
    edges, volume_micro : int
        Imports, and the sum of their transfers.
    head : str or None
        Head of the chain after the round; None while it is neither settled nor abandoned.
    """

    number: int
    quorum: int
    deadline_s: float
    steps: Mapping[State, float] = field(default_factory=dict)
    detail: str | None = None
    asked: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)
    reported: Mapping[int, float] = field(default_factory=dict)
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    paid: Mapping[int, int] = field(default_factory=dict)
    earned: Mapping[int, int] = field(default_factory=dict)
    edges: int = 0
    volume_micro: int = 0
    head: str | None = None

    @property
    def state(self) -> State:
        """The state that the round has reached: `State` lists them in their order."""
        return [state for state in State if state in self.steps][-1]


# Spelled out, not a parameter: only then may SQLite take the index of the transfers.
_IS_TRANSFER: Final = t.entries.c.kind == literal(TRANSFER, literal_execute=True)
_IS_CORRECTION: Final = t.entries.c.reverses >= 0  # has an index, unlike kind


def read_history(connection: Connection, first: int, count: int) -> list[RoundHistory]:
    """Load rounds `first`, `first` + 1, …, at most `count` of them, by number."""
    rounds = t.rounds.c
    query = select(rounds.number, rounds.quorum, rounds.deadline_s)
    query = query.where(rounds.number.between(first, first + count - 1)).order_by(rounds.number)
    parts = {
        row["number"]: {**row, "asked": (), "paid": {}, "earned": {}}
        | {name: {} for name in ("steps", "failed", "reported", "metrics", "outcomes")}
        for row in connection.execute(query).mappings()
    }
    if parts:
        _add_course(connection, parts)
        _add_reports(connection, parts)
        _add_money(connection, parts)
    # A round whose first step is missing was tampered with: verification says so.
    return [RoundHistory(**part) for part in parts.values() if part["steps"]]


def _rows(connection: Connection, table: Table, parts: _Parts, *order: str) -> Sequence[Any]:
    columns = (table.c.round, *(table.c[name] for name in order))
    query = select(table).where(table.c.round.between(min(parts), max(parts))).order_by(*columns)
    return connection.execute(query).all()


def _add_course(connection: Connection, parts: _Parts) -> None:
    for row in _rows(connection, t.asked, parts, "institution"):
        parts[row.round]["asked"] += (row.institution,)
    for row in _rows(connection, t.transitions, parts):
        parts[row.round]["steps"][State(row.state)] = row.at
        if row.state == State.ABANDONED:
            parts[row.round]["detail"] = row.detail
    for row in _rows(connection, t.chain, parts):
        parts[row.round]["head"] = row.head


def _add_reports(connection: Connection, parts: _Parts) -> None:
    for row in _rows(connection, t.reports, parts):
        parts[row.round]["reported"][row.institution] = row.at
        parts[row.round]["metrics"][row.institution] = json.loads(row.metrics)
    for row in _rows(connection, t.refusals, parts, "institution", "attempt"):
        if row.institution not in parts[row.round]["reported"]:
            parts[row.round]["failed"][row.institution] = row.reason
    for row in _rows(connection, t.outcomes, parts):
        parts[row.round]["outcomes"][row.institution] = Outcome(
            bool(row.active), bool(row.declined), row.gain, row.utility
        )


def _add_money(connection: Connection, parts: _Parts) -> None:
    first, last = min(parts), max(parts)
    for number, payer, payee, amount in connection.execute(_moved(first, last)):
        paid, earned = parts[number]["paid"], parts[number]["earned"]
        paid[payer] = paid.get(payer, 0) + amount
        earned[payee] = earned.get(payee, 0) + amount
    for number, edges, volume in connection.execute(_volumes(first, last)):
        parts[number] |= {"edges": edges, "volume_micro": int(volume)}


def read_lines(
    connection: Connection, institution: int, first: int, last: int
) -> list[tuple[int, int, int, int]]:
    """Load an institution's entries in rounds `first` to `last` as they were made.

    Returns
    -------
    list of tuple
        Round, payer, payee, micro-credits.
    """
    entries = t.entries.c
    # "+ 0": not by the indices of payer and payee, which lead to all rounds.
    own = (entries.payer + 0 == institution) | (entries.payee + 0 == institution)
    query = select(entries.id, entries.round, entries.payer, entries.payee, entries.amount_micro)
    query = query.where(entries.round.between(first, last), own)
    both = union_all(query.where(_IS_TRANSFER), query.where(_IS_CORRECTION))
    return [tuple(row[1:]) for row in sorted(connection.execute(both), key=tuple)]


def _moved(first: int, last: int) -> CompoundSelect[Any]:
    """Select round, payer, payee and amount of what was paid in some rounds."""
    entries = t.entries.c
    query = select(entries.round, entries.payer, entries.payee, entries.amount_micro)
    query = query.where(entries.round.between(first, last))
    return union_all(query.where(_IS_TRANSFER), query.where(_IS_CORRECTION))


def _volumes(first: int, last: int) -> Select[Any]:
    entries = t.entries.c
    query = select(entries.round, func.count(), func.sum(entries.amount_micro))
    query = query.where(entries.round.between(first, last), _IS_TRANSFER)
    return query.group_by(entries.round)
