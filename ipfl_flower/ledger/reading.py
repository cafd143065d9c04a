"""Where the market stands, read from the rows."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.checks import current_state
from ipfl_flower.ledger.records import LedgerError, RoundState, RoundSummary, State
from ipfl_flower.ledger.rows import TRANSFER


def read_states(connection: Connection) -> dict[int, set[State]]:
    """Load the states that each round has gone through."""
    states: dict[int, set[State]] = defaultdict(set)
    query = select(t.transitions.c.round, t.transitions.c.state)
    for number, state in connection.execute(query):
        states[number].add(State(state))
    return states


def last_round(connection: Connection) -> int | None:
    """Find the number of the newest round; None before the first."""
    number: int | None = connection.scalar(select(func.max(t.rounds.c.number)))
    return number


def has_reported(connection: Connection, institution: int) -> bool:
    """Tell whether an institution has reported in any round."""
    query = select(t.reports.c.round).where(t.reports.c.institution == institution).limit(1)
    return connection.scalar(query) is not None


def read_reached(connection: Connection, number: int) -> State:
    """Tell which state round `number` has reached.

    Raises
    ------
    LedgerError
        There is no such round, or its transitions make no sense.
    """
    steps = select(t.transitions.c.state).where(t.transitions.c.round == number)
    reached = {State(state) for state in connection.scalars(steps)}
    if not reached:
        raise LedgerError(f"there is no round {number}: open it first")
    return _newest(number, reached)


def read_state(connection: Connection, number: int) -> RoundState:
    """Tell where round `number` stands.

    Raises
    ------
    LedgerError
        There is no such round, or its transitions make no sense.
    """
    row = connection.execute(select(t.rounds).where(t.rounds.c.number == number)).first()
    if row is None:
        raise LedgerError(f"there is no round {number}: open it first")
    steps = select(t.transitions).where(t.transitions.c.round == number)
    reached = {State(step.state): step for step in connection.execute(steps)}
    state = _newest(number, reached)
    asked = select(t.asked.c.institution).where(t.asked.c.round == number)
    reported = select(t.reports.c.institution).where(t.reports.c.round == number)
    refusals = select(t.refusals.c.institution, t.refusals.c.reason).order_by(
        t.refusals.c.institution, t.refusals.c.attempt
    )
    reporters = sorted(connection.scalars(reported))
    failed = dict(connection.execute(refusals.where(t.refusals.c.round == number)).all())
    collecting = reached.get(State.COLLECTING)
    return RoundState(
        number=number,
        state=state,
        asked=tuple(sorted(connection.scalars(asked))),
        reported=tuple(reporters),
        failed={i: reason for i, reason in failed.items() if i not in reporters},
        quorum=row.quorum,
        deadline_s=row.deadline_s,
        deadline_at=collecting.at + row.deadline_s if collecting else None,
        detail=reached[state].detail,
    )


def read_summaries(connection: Connection) -> list[RoundSummary]:
    """Sum up every round, by number."""

    def by_round(table: Table, *sums: ColumnElement[Any]) -> dict[int, Any]:
        query = select(table.c.round, *sums).group_by(table.c.round)
        if table is t.entries:
            query = query.where(t.entries.c.kind == TRANSFER)
        return {row[0]: row[1:] for row in connection.execute(query)}

    reported = by_round(t.reports, func.count())
    traded = by_round(t.entries, func.count(), func.sum(t.entries.c.amount_micro))
    welfare = by_round(t.outcomes, func.sum(t.outcomes.c.utility))
    heads = dict(connection.execute(select(t.chain.c.round, t.chain.c.head)).all())
    summaries = []
    for number, states in sorted(read_states(connection).items()):
        state = _newest(number, states)
        edges, volume = traded.get(number, (0, 0))
        summaries.append(
            RoundSummary(
                number=number,
                state=state,
                participants=reported.get(number, (0,))[0],
                edges=edges,
                volume_micro=int(volume),
                welfare=float(welfare.get(number, (0.0,))[0]),
                head=heads.get(number),
            )
        )
    return summaries


def _newest(number: int, reached: Iterable[State]) -> State:
    state = current_state(reached)
    if state is None:
        raise LedgerError(f"round {number} went through impossible states: verify the ledger")
    return state
