"""What is worth remembering but settles nothing: events, and how a market ended for each."""

import json
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, Table, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import Event, LedgerError
from ipfl_flower.ledger.rows import metrics_json, plain_text

_own = t.reports.alias("own")
LAST_REPORT: Final = (
    select(func.max(_own.c.round))
    .where(_own.c.institution == t.institutions.c.id)
    .scalar_subquery()
)
"""Of a row of `institutions`, the round of its last report: one look into an index."""

RESUMED: Final = "resumed"
"""Kind of the event that a market goes on where it stood."""


def log_event(connection: Connection, kind: str, text: str, at: float) -> None:
    """Note that something happened."""
    row = {"id": next_id(connection, t.events), "kind": kind, "text": plain_text(text)}
    connection.execute(t.events.insert(), {**row, "at": at})


def read_events(connection: Connection, after: int = 0) -> list[Event]:
    """Load all events but the first `after`, oldest first."""
    # Of an append-only table, whose ids run from 0.
    query = select(t.events).where(t.events.c.id >= after).order_by(t.events.c.id)
    return [Event(row.kind, row.text, row.at) for row in connection.execute(query)]


def read_collects_until(connection: Connection, asked_at: float, deadline_s: float) -> float:
    """Tell until when a round collects: one that was resumed waits its whole deadline again.

    Parameters
    ----------
    asked_at : float
        When it began to collect, seconds since 1970.
    deadline_s : float
        Seconds that it may last.

    Returns
    -------
    float
        Seconds since 1970.
    """
    events = t.events.c
    resumed_at = connection.scalar(select(func.max(events.at)).where(events.kind == RESUMED))
    return max(asked_at, asked_at if resumed_at is None else resumed_at) + deadline_s


def acknowledge(
    connection: Connection, number: int, institution: int, metrics: Mapping[str, float], at: float
) -> None:
    """Record what an institution makes of what it was last sent."""
    enrolled = select(t.institutions.c.id).where(t.institutions.c.id == institution)
    if connection.scalar(enrolled) is None:
        raise LedgerError(f"no institution is enrolled as {institution}: enrol it first")
    row = {"round": number, "institution": institution, "metrics": metrics_json(metrics), "at": at}
    row["id"] = next_id(connection, t.acknowledgements)
    connection.execute(t.acknowledgements.insert(), row)


def read_acknowledgements(connection: Connection) -> dict[int, dict[str, float]]:
    """Load the last acknowledgement of each institution, by id."""
    query = select(t.acknowledgements.c.institution, t.acknowledgements.c.metrics)
    rows = connection.execute(query.order_by(t.acknowledgements.c.id))
    return {row.institution: json.loads(row.metrics) for row in rows}


def read_last_heard(connection: Connection) -> dict[int, int]:
    """Load the number of the last message that each institution answered; −1: none."""
    reported = select(t.institutions.c.id, LAST_REPORT)
    heard = {i: -1 if number is None else number for i, number in connection.execute(reported)}
    table = t.acknowledgements
    query = select(table.c.institution, func.max(table.c.round)).group_by(table.c.institution)
    for institution, number in connection.execute(query):
        heard[institution] = max(heard[institution], number)
    return heard


def next_id(connection: Connection, table: Table) -> int:
    """Return one more than the last id in a table, without counting its rows."""
    last: int | None = connection.scalar(select(func.max(table.c.id)))
    return 0 if last is None else last + 1
