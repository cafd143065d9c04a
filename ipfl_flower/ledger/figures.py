"""Sums for whoever watches a market: read often, so each asks only for the rounds it lacks."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, case, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.admission import read_expelled
from ipfl_flower.ledger.chain import canonical, next_head, round_digests
from ipfl_flower.ledger.checks import NEXT_STATES, current_state
from ipfl_flower.ledger.journal import read_last_heard
from ipfl_flower.ledger.reading import last_round, read_state
from ipfl_flower.ledger.records import Institution, RoundState, State
from ipfl_flower.ledger.rows import TRANSFER
from ipfl_flower.ledger.statements import read_institutions

_NUMBER_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """Sums over one round.

    Attributes
    ----------
    number : int
        Round number.
    state : State or None
        Its state; None: it went through impossible ones.
    detail : str or None
        Why it was abandoned.
    reached : Mapping of State to float
        When it reached each state, seconds since 1970.
    participants, active : int
        Institutions that the settlement is of, and of those the ones that traded.
    edges : int
        Purchases.
    volume_micro, net_micro : int
        Sums of the transfers and of everyone's net payment, micro-credits.
    welfare : float
        Sum of the utilities, credits.
    declined, fallbacks : int
        Institutions over their budget; buyers for whom the exact selection gave up.
    """

    number: int
    state: State | None
    detail: str | None
    reached: Mapping[State, float]
    participants: int = 0
    active: int = 0
    edges: int = 0
    volume_micro: int = 0
    net_micro: int = 0
    welfare: float = 0.0
    declined: int = 0
    fallbacks: int = 0

    @property
    def settled(self) -> bool:
        """Whether its market was cleared and paid."""
        return State.SETTLED in self.reached

    @property
    def over(self) -> bool:
        """Whether nothing more can happen in it."""
        return self.state is not None and not NEXT_STATES[self.state]


@dataclass(slots=True)
class Account:
    """Sums over rounds for one institution: micro-credits, credits, and counts."""

    paid_micro: int = 0
    earned_micro: int = 0
    purchases: int = 0
    sales: int = 0
    gain: float = 0.0
    utility: float = 0.0
    declined: int = 0
    replies: int = 0
    failures: int = 0

    def add(self, other: "Account") -> None:
        """Add another institution's sums, or the same one's over other rounds."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Tally:
    """Rounds, by number, and each institution's sums over them, by id."""

    rounds: Sequence[RoundFigures]
    accounts: Mapping[int, Account]


@dataclass(frozen=True)
class Figures:
    """A market at one moment.

    Attributes
    ----------
    over, going : Tally
        Of the rounds asked for: those that nothing more happens in, up to the first other one; and
        the rest. What is over stays as it is, and need not be asked for again.
    settings : Mapping or None
        The market's; None before it began.
    institutions : sequence of Institution
        By id.
    gone : frozenset of int
        Ids of those that left or were expelled.
    last_heard : Mapping of int to int
        Number of the last message that each answered, by id; −1: none.
    metrics : Mapping of int to Mapping
        What each institution reported last about itself, by id.
    state : RoundState or None
        Where the newest round stands; None before the first.
    entered_at : float or None
        When it got there, seconds since 1970.
    deadline_at : float or None
        Until when it collects, seconds since 1970: a resumed market waits its whole deadline again.
    events : Mapping of str to int
        Events by kind.
    head_fits : bool
        Whether the newest sealed round is what was sealed, and follows the round before it.
    """

    over: Tally
    going: Tally
    settings: Mapping[str, Any] | None
    institutions: Sequence[Institution]
    gone: frozenset[int]
    last_heard: Mapping[int, int]
    metrics: Mapping[int, Mapping[str, float]]
    state: RoundState | None
    entered_at: float | None
    deadline_at: float | None
    events: Mapping[str, int]
    head_fits: bool


def read_figures(connection: Connection, after: int) -> Figures:
    """Sum up the rounds after round `after`, and tell where the market stands.

    Raises
    ------
    LedgerError
        The newest round's transitions make no sense.
    """
    rounds = _read_rounds(connection, after)
    over = 0
    while over < len(rounds) and rounds[over].over:
        over += 1
    through = rounds[over - 1].number if over else after
    newest = last_round(connection)
    state = None if newest is None else read_state(connection, newest)
    settings = connection.scalar(select(t.market.c.settings))
    metrics, left = _read_newest_reports(connection)
    return Figures(
        over=Tally(rounds[:over], _read_accounts(connection, after, through)),
        going=Tally(rounds[over:], _read_accounts(connection, through, _NUMBER_MAX)),
        settings=None if settings is None else json.loads(settings),
        institutions=read_institutions(connection),
        gone=frozenset(left | read_expelled(connection).keys()),
        last_heard=read_last_heard(connection),
        metrics=metrics,
        state=state,
        entered_at=_read_entered(connection, newest),
        deadline_at=_read_deadline(connection, state),
        events=_read_events(connection),
        head_fits=_head_fits(connection),
    )


def _read_rounds(connection: Connection, after: int) -> list[RoundFigures]:
    reached: dict[int, dict[State, float]] = defaultdict(dict)
    details: dict[int, str] = {}
    steps = t.transitions.c
    query = select(steps.round, steps.state, steps.detail, steps.at).where(steps.round > after)
    for number, state, detail, at in connection.execute(query):
        reached[number][State(state)] = at
        if detail is not None:
            details[number] = detail

    def by_round(table: Table, *sums: Any, only: Any = None) -> dict[int, tuple[Any, ...]]:
        query = select(table.c.round, *sums).where(table.c.round > after)
        if only is not None:
            query = query.where(only)
        rows = connection.execute(query.group_by(table.c.round))
        return {row[0]: tuple(row[1:]) for row in rows}

    made, paid = t.outcomes.c, t.entries.c
    outcomes = by_round(
        t.outcomes,
        func.count(),
        func.sum(made.active),
        func.sum(made.declined),
        func.sum(made.net_micro),
        func.sum(made.utility),
    )
    transfers = by_round(
        t.entries, func.count(), func.sum(paid.amount_micro), only=paid.kind == TRANSFER
    )
    fallbacks = by_round(t.settlements, func.sum(t.settlements.c.fallbacks))
    found = []
    for number, times in sorted(reached.items()):
        m, active, declined, net, welfare = outcomes.get(number, (0, 0, 0, 0, 0.0))
        edges, volume = transfers.get(number, (0, 0))
        found.append(
            RoundFigures(
                number=number,
                state=current_state(times),
                detail=details.get(number),
                reached=times,
                participants=m,
                active=int(active),
                edges=edges,
                volume_micro=int(volume),
                net_micro=int(net),
                welfare=float(welfare),
                declined=int(declined),
                fallbacks=int(fallbacks.get(number, (0,))[0]),
            )
        )
    return found


def _read_accounts(connection: Connection, after: int, through: int) -> dict[int, Account]:
    accounts: dict[int, Account] = defaultdict(Account)

    def by_institution(table: Table, institution: Any, **sums: Any) -> None:
        query = select(institution, *sums.values())
        query = query.where(table.c.round > after, table.c.round <= through).group_by(institution)
        for row in connection.execute(query):
            account = accounts[row[0]]
            for name, value in zip(sums, row[1:], strict=True):
                setattr(account, name, type(getattr(account, name))(value))

    entries, made = t.entries.c, t.outcomes.c
    edges = func.sum(case((entries.kind == TRANSFER, 1), else_=0))
    amount = func.sum(entries.amount_micro)
    by_institution(t.entries, entries.payer, paid_micro=amount, purchases=edges)
    by_institution(t.entries, entries.payee, earned_micro=amount, sales=edges)
    by_institution(
        t.outcomes,
        made.institution,
        gain=func.sum(made.gain),
        utility=func.sum(made.utility),
        declined=func.sum(made.declined),
    )
    by_institution(t.reports, t.reports.c.institution, replies=func.count())
    by_institution(t.refusals, t.refusals.c.institution, failures=func.count())
    return dict(accounts)


def _read_newest_reports(
    connection: Connection,
) -> tuple[dict[int, dict[str, float]], set[int]]:
    """Load what each institution said last of itself, and who left with that."""
    metrics: dict[int, dict[str, float]] = {}
    left: set[int] = set()
    said = t.reports.c
    newest = select(said.institution, func.max(said.round).label("round"))
    last = newest.group_by(said.institution).subquery()
    query = select(said.institution, said.metrics, said.leaving).join(
        last, (said.institution == last.c.institution) & (said.round == last.c.round)
    )
    for institution, text, leaving in connection.execute(query):
        metrics[institution] = json.loads(text)
        if leaving:
            left.add(institution)
    return metrics, left


def _read_entered(connection: Connection, number: int | None) -> float | None:
    steps = t.transitions.c
    found: float | None = connection.scalar(select(func.max(steps.at)).where(steps.round == number))
    return found


def _read_deadline(connection: Connection, state: RoundState | None) -> float | None:
    if state is None or state.deadline_at is None:
        return None
    query = select(func.max(t.events.c.at)).where(t.events.c.kind == "resumed")
    resumed = connection.scalar(query)
    if resumed is None:
        return state.deadline_at
    return max(state.deadline_at, float(resumed) + state.deadline_s)


def _read_events(connection: Connection) -> Counter[str]:
    query = select(t.events.c.kind, func.count()).group_by(t.events.c.kind)
    return Counter(dict(connection.execute(query).all()))


def _head_fits(connection: Connection) -> bool:
    """Take the digests of the newest sealed round again: `verify` does so of all, and more."""
    query = select(t.chain).order_by(t.chain.c.round.desc()).limit(2)
    links = connection.execute(query).all()
    if not links:
        return True
    newest = links[0]
    before = links[1].head if len(links) > 1 else connection.scalar(select(t.market.c.digest))
    return bool(
        newest.previous == before
        and newest.digests == canonical(round_digests(connection, newest.round))
        and newest.head == next_head(newest.previous, newest.digests)
    )
