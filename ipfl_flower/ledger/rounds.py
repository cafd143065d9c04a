"""The steps of a round: each runs in one transaction, and may be repeated with the same content."""

from collections.abc import Sequence
from math import isfinite

from sqlalchemy import Connection, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.chain import head_before, seal
from ipfl_flower.ledger.checks import (
    CHEAP_CHECKS,
    NEXT_STATES,
    SEALED,
    settlement_faults,
)
from ipfl_flower.ledger.copying import insert_rows
from ipfl_flower.ledger.reading import find_undelivered, last_round, read_reached, read_state
from ipfl_flower.ledger.records import LedgerError, Report, Settlement, State
from ipfl_flower.ledger.rows import (
    next_entry,
    plain_text,
    read_reports,
    report_row,
    settlement_rows,
    stored_rows,
)


def open_round(
    connection: Connection,
    number: int,
    asked: Sequence[int],
    deadline_s: float,
    quorum: int,
    at: float,
) -> None:
    """Begin round `number`: whom it asks, for how long, and how many must answer."""
    ids = tuple(sorted(asked))
    last = last_round(connection)
    if last is not None and number == last:
        known = read_state(connection, last)
        same = (known.asked, known.deadline_s, known.quorum) == (ids, deadline_s, quorum)
        if known.state is State.OPEN and same:
            return
        raise LedgerError(f"round {number} is {known.state}: it cannot be opened again")
    expected = 0 if last is None else last + 1
    if number != expected:
        raise LedgerError(f"round {number} cannot be opened: the next round is {expected}")
    if last is not None and (state := read_reached(connection, last)) not in SEALED:
        raise LedgerError(f"round {last} is still {state}: settle or abandon it first")
    head_before(connection, number)  # refuses a market that has not begun
    _check_round(connection, number, ids, deadline_s, quorum)
    row = {"number": number, "deadline_s": float(deadline_s), "quorum": quorum}
    connection.execute(t.rounds.insert(), row)
    insert_rows(connection, t.asked, [{"round": number, "institution": i} for i in ids])
    _enter(connection, number, State.OPEN, None, at)


def collect(connection: Connection, number: int, at: float) -> None:
    """Begin to wait for reports: what earlier rounds owed has been delivered."""
    state = read_reached(connection, number)
    if state is not State.COLLECTING:
        _require(number, state, State.COLLECTING)
        earlier = find_undelivered(connection, number)
        if earlier is not None:
            raise LedgerError(f"round {number} cannot collect: deliver round {earlier} first")
        _enter(connection, number, State.COLLECTING, None, at)


def deliver(connection: Connection, number: int, at: float) -> None:
    """Finish a round: everybody has been sent what it brought them."""
    state = read_reached(connection, number)
    if state is not State.DELIVERED:
        _require(number, state, State.DELIVERED)
        _enter(connection, number, State.DELIVERED, None, at)


def report(connection: Connection, new: Report, at: float) -> None:
    """Record what an institution replied."""
    state, name = _asked(connection, new.round, new.institution)
    where = f"institution {name!r} in round {new.round}"
    row = report_row(new)
    query = select(t.reports).where(
        t.reports.c.round == new.round, t.reports.c.institution == new.institution
    )
    found = connection.execute(query).mappings().first()
    if found is not None:
        changed = [key for key, value in row.items() if found[key] != value]
        if changed:
            raise LedgerError(f"{where} has already reported other {', '.join(changed)}")
        return
    if state is not State.COLLECTING:
        raise LedgerError(f"{where} reports, but the round is {state}: the reply is too late")
    cap_query = select(t.institutions.c.samples_cap).where(t.institutions.c.id == new.institution)
    cap = connection.scalar(cap_query)
    if cap is not None and new.terms.samples > cap:
        raise LedgerError(f"{where} reports {new.terms.samples} samples, its contract allows {cap}")
    if not (new.model_digest or new.leaving):
        raise LedgerError(f"{where} reports no model digest: put its model in the bank first")
    connection.execute(t.reports.insert(), {**row, "at": at})


def refuse(connection: Connection, number: int, institution: int, reason: str, at: float) -> None:
    """Record why an institution's reply does not count."""
    reason = plain_text(reason)
    state, name = _asked(connection, number, institution)
    where = f"institution {name!r} in round {number}"
    query = select(t.refusals.c.reason).where(
        t.refusals.c.round == number, t.refusals.c.institution == institution
    )
    earlier = connection.scalars(query.order_by(t.refusals.c.attempt)).all()
    if earlier and earlier[-1] == reason:
        return
    if state not in {State.OPEN, State.COLLECTING}:
        raise LedgerError(f"{where} cannot be refused: the round is {state}")
    if not reason:
        raise LedgerError(f"{where} is refused without a reason: give one")
    key = {"round": number, "institution": institution, "attempt": len(earlier)}
    connection.execute(t.refusals.insert(), {**key, "reason": reason, "at": at})


def abandon(connection: Connection, number: int, reason: str, at: float) -> str:
    """Give up round `number` and seal it."""
    reason = plain_text(reason)
    known = read_state(connection, number)
    if known.state is State.ABANDONED and known.detail == reason:
        return _head(connection, number)
    _require(number, known.state, State.ABANDONED)
    if not reason:
        raise LedgerError(f"round {number} is abandoned without a reason: give one")
    _enter(connection, number, State.ABANDONED, reason, at)
    return seal(connection, number)


def commit(connection: Connection, settlement: Settlement, at: float) -> str:
    """Record what the market decided and seal the round."""
    number = settlement.round
    faults = [fault for _, fault in settlement_faults(settlement, CHEAP_CHECKS)]
    if faults:
        raise LedgerError(f"round {number} cannot be settled: {'; '.join(faults)}")
    known = read_state(connection, number)
    rows = settlement_rows(settlement, next_entry(connection, number))
    if known.state in {State.SETTLED, State.DELIVERED}:
        _require_reports(connection, settlement)
        stored = stored_rows(connection, number)
        changed = [table.name for table in rows if rows[table] != stored[table]]
        if changed:
            raise LedgerError(f"round {number} is settled already, with other {', '.join(changed)}")
        return _head(connection, number)
    _require(number, known.state, State.SETTLED)
    if len(known.reported) < known.quorum:
        raise LedgerError(
            f"round {number} has {len(known.reported)} reports and a quorum of {known.quorum}: "
            "collect more, or abandon it"
        )
    _require_reports(connection, settlement)
    for table, values in rows.items():
        insert_rows(connection, table, values)
    _enter(connection, number, State.SETTLED, None, at)
    return seal(connection, number)


def _check_round(
    connection: Connection, number: int, ids: Sequence[int], deadline_s: float, quorum: int
) -> None:
    where = f"round {number} cannot be opened"
    unknown = sorted({*ids} - {*connection.scalars(select(t.institutions.c.id))})
    if unknown:
        raise LedgerError(f"{where}: no institution is enrolled as {unknown[0]}")
    if len({*ids}) != len(ids):
        raise LedgerError(f"{where}: it asks an institution twice")
    if not (isfinite(deadline_s) and deadline_s > 0):
        raise LedgerError(f"{where}: the deadline of {deadline_s} s is not a positive time")
    if not 0 <= quorum <= len(ids):
        raise LedgerError(f"{where}: a quorum of {quorum} among {len(ids)} asked is impossible")


def _require(number: int, reached: State, state: State) -> None:
    if state not in NEXT_STATES[reached]:
        allowed = " or ".join(sorted(NEXT_STATES[reached])) or "nothing else"
        raise LedgerError(f"round {number} is {reached} and cannot become {state}, only {allowed}")


def _require_reports(connection: Connection, settlement: Settlement) -> None:
    """See that the market was given what the institutions reported, all of it and nothing else."""
    reports = read_reports(connection, settlement.round)
    where = f"round {settlement.round} cannot be settled"
    if settlement.participants != tuple(r.institution for r in reports):
        raise LedgerError(
            f"{where}: participants {settlement.participants} are not those that reported, "
            f"{tuple(r.institution for r in reports)}"
        )
    for i, recorded in enumerate(reports):
        given = Report(
            round=settlement.round,
            institution=recorded.institution,
            terms=settlement.terms[i],
            model_digest=settlement.model_digests[i],
            leaving=recorded.leaving,
            metrics=settlement.metrics[i],
        )
        was, now = report_row(recorded), report_row(given)
        changed = [key for key in was if was[key] != now[key]]
        if changed:
            raise LedgerError(
                f"{where}: {', '.join(changed)} of institution {recorded.institution} "
                "differ from its report"
            )


def _asked(connection: Connection, number: int, institution: int) -> tuple[State, str]:
    """Look up the round's state and the name of an institution that it asked."""
    state = read_reached(connection, number)
    query = (
        select(t.institutions.c.name)
        .join(t.asked, t.asked.c.institution == t.institutions.c.id)
        .where(t.asked.c.round == number, t.asked.c.institution == institution)
    )
    name: str | None = connection.scalar(query)
    if name is None:
        raise LedgerError(f"round {number} did not ask institution {institution}: ignore its reply")
    return state, name


def _enter(
    connection: Connection, number: int, state: State, detail: str | None, at: float
) -> None:
    row = {"round": number, "state": str(state), "detail": detail, "at": at}
    connection.execute(t.transitions.insert(), row)


def _head(connection: Connection, number: int) -> str:
    return str(connection.scalar(select(t.chain.c.head).where(t.chain.c.round == number)))
