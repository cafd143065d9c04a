"""Sums for whoever watches a market: read often, so each asks only for the rounds it lacks."""

import json
from collections import Counter, defaultdict
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.admission import read_expelled
from ipfl_flower.ledger.chain import canonical, next_head, round_digests
from ipfl_flower.ledger.checks import current_state
from ipfl_flower.ledger.figures import Account, Figures, RoundFigures, Tally
from ipfl_flower.ledger.journal import LAST_REPORT, read_last_heard
from ipfl_flower.ledger.reading import last_round, read_state
from ipfl_flower.ledger.records import State
from ipfl_flower.ledger.rows import TRANSFER
from ipfl_flower.ledger.statements import read_institutions

_NUMBER_MAX: Final = 2**63 - 1
# As the indexes of `tables` have it, so that a few rounds are found without reading all of them.
_TRANSFERS: Final = t.entries.c.kind == bindparam("kind", TRANSFER, literal_execute=True)
_CORRECTIONS: Final = t.entries.c.reverses >= 0
_NEWEST: Final = select(t.chain).order_by(t.chain.c.round.desc()).limit(1)


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
        events=_read_events(connection),
        head=connection.scalar(_NEWEST.with_only_columns(t.chain.c.head)),
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
    transfers = by_round(t.entries, func.count(), func.sum(paid.amount_micro), only=_TRANSFERS)
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

    def by_institution(table: Table, institution: Any, *only: Any, **sums: Any) -> None:
        # Not by the column itself: SQLite would go through all rounds in the order of its index.
        group = institution + 0
        rounds = (table.c.round > after, table.c.round <= through)
        query = select(group, *sums.values()).where(*rounds, *only).group_by(group)
        for row in connection.execute(query):
            account = accounts[row[0]]
            for name, value in zip(sums, row[1:], strict=True):
                before = getattr(account, name)
                setattr(account, name, before + type(before)(value))

    entries, made = t.entries.c, t.outcomes.c
    amount = func.sum(entries.amount_micro)
    by_institution(t.entries, entries.payer, _TRANSFERS, paid_micro=amount, purchases=func.count())
    by_institution(t.entries, entries.payee, _TRANSFERS, earned_micro=amount, sales=func.count())
    by_institution(t.entries, entries.payer, _CORRECTIONS, paid_micro=amount)
    by_institution(t.entries, entries.payee, _CORRECTIONS, earned_micro=amount)
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
    # "+ 0": from institutions to their reports, never from all reports to institutions.
    own = said.institution == t.institutions.c.id + 0
    query = select(said.institution, said.metrics, said.leaving).join(
        t.institutions, own & (said.round == LAST_REPORT)
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


def _read_events(connection: Connection) -> Counter[str]:
    query = select(t.events.c.kind, func.count()).group_by(t.events.c.kind)
    return Counter(dict(connection.execute(query).all()))


def head_fits(connection: Connection) -> bool:
    """Take the digests of the newest sealed round again: `verify` does so of all, and more."""
    links = connection.execute(_NEWEST.limit(2)).all()
    if not links:
        return True
    newest = links[0]
    before = links[1].head if len(links) > 1 else connection.scalar(select(t.market.c.digest))
    return bool(
        newest.previous == before
        and newest.digests == canonical(round_digests(connection, newest.round))
        and newest.head == next_head(newest.previous, newest.digests)
    )
