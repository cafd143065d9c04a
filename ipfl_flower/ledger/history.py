"""Rounds as they went, for those who draw a market over time: a few queries for many rounds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.journal import read_collects_until
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
    deadline_at : float or None
        Until when it collects, seconds since 1970; None unless it does.
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
    deadline_at: float | None = None
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


def read_history(connection: Connection, first: int, count: int) -> list[RoundHistory]:
    """Load rounds `first`, `first` + 1, …, at most `count` of them, by number."""
    rounds = t.rounds.c
    query = select(rounds.number, rounds.quorum, rounds.deadline_s)
    query = query.where(rounds.number.between(first, first + count - 1)).order_by(rounds.number)
    parts = {
        row["number"]: {**row, "asked": (), "paid": {}, "earned": {}, "edges": 0, "volume_micro": 0}
        | {name: {} for name in ("steps", "failed", "reported", "metrics", "outcomes")}
        for row in connection.execute(query).mappings()
    }
    if parts:
        _add_course(connection, parts)
        _add_reports(connection, parts)
        _add_money(connection, parts)
        _add_deadline(connection, parts)
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


def _add_deadline(connection: Connection, parts: _Parts) -> None:
    for part in parts.values():
        asked_at, ends = part["steps"].get(State.COLLECTING), (State.SETTLED, State.ABANDONED)
        if asked_at is not None and not any(state in part["steps"] for state in ends):
            part["deadline_at"] = read_collects_until(connection, asked_at, part["deadline_s"])


def _add_money(connection: Connection, parts: _Parts) -> None:
    for row in _rows(connection, t.entries, parts):
        part, amount = parts[row.round], row.amount_micro
        paid, earned = part["paid"], part["earned"]
        paid[row.payer] = paid.get(row.payer, 0) + amount
        earned[row.payee] = earned.get(row.payee, 0) + amount
        if row.kind == TRANSFER:
            part["edges"] += 1
            part["volume_micro"] += amount
