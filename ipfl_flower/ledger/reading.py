"""Where the market stands, read from the rows."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, bindparam, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.checks import current_state
from ipfl_flower.ledger.journal import read_collects_until
from ipfl_flower.ledger.records import LedgerError, RoundState, RoundSummary, State
from ipfl_flower.ledger.rows import TRANSFER

# Where round ``:number`` stands, built once as in `chain`.
_NUMBER = bindparam("number", type_=t.rounds.c.number.type)
_STEPS: Final = (
    select(
        t.rounds.c.quorum,
        t.rounds.c.deadline_s,
        t.transitions.c.state,
        t.transitions.c.at,
        t.transitions.c.detail,
    )
    .outerjoin(t.transitions, t.transitions.c.round == t.rounds.c.number)
    .where(t.rounds.c.number == _NUMBER)
)
_ASKED: Final = (
    select(t.asked.c.institution, t.reports.c.institution.label("reporter"))
    .outerjoin(
        t.reports,
        (t.reports.c.round == t.asked.c.round) & (t.reports.c.institution == t.asked.c.institution),
    )
    .where(t.asked.c.round == _NUMBER)
    .order_by(t.asked.c.institution)
)
_REFUSALS: Final = (
    select(t.refusals.c.institution, t.refusals.c.reason)
    .where(t.refusals.c.round == _NUMBER)
    .order_by(t.refusals.c.institution, t.refusals.c.attempt)
)


def read_states(connection: Connection) -> dict[int, set[State]]:
    """Load the states that each round has gone through."""
    states: dict[int, set[State]] = defaultdict(set)
    query = select(t.transitions.c.round, t.transitions.c.state)
    for number, state in connection.execute(query):
        states[number].add(State(state))
    return states


def find_undelivered(connection: Connection, number: int) -> int | None:
    """Find the last settled round before round `number` that isn't delivered; None: there is none.

    It looks no further back than to a round that collected: before that, all were delivered.
    """
    for earlier in range(number - 1, -1, -1):
        steps = select(t.transitions.c.state).where(t.transitions.c.round == earlier)
        states = {State(state) for state in connection.scalars(steps)}
        if current_state(states) is State.SETTLED:
            return earlier
        if State.COLLECTING in states:
            return None
    return None


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
    steps = connection.execute(_STEPS, {"number": number}).all()
    if not steps:
        raise LedgerError(f"there is no round {number}: open it first")
    reached = {State(step.state): step for step in steps if step.state is not None}
    state = _newest(number, reached)
    asked = connection.execute(_ASKED, {"number": number}).all()
    failed = dict(connection.execute(_REFUSALS, {"number": number}).all())
    reported = {row.institution for row in asked if row.reporter is not None}
    quorum, deadline_s = steps[0].quorum, steps[0].deadline_s
    collecting = reached.get(State.COLLECTING)
    return RoundState(
        number=number,
        state=state,
        asked=tuple(row.institution for row in asked),
        reported=tuple(sorted(reported)),
        failed={i: reason for i, reason in failed.items() if i not in reported},
        quorum=quorum,
        deadline_s=deadline_s,
        deadline_at=None
        if collecting is None
        else read_collects_until(connection, collecting.at, deadline_s),
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
