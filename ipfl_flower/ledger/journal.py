"""What is worth remembering but settles nothing: events, and how a market ended for each."""

import json
from collections.abc import Mapping

from sqlalchemy import Connection, Table, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import Event, LedgerError
from ipfl_flower.ledger.rows import metrics_json, plain_text


def log_event(connection: Connection, kind: str, text: str, at: float) -> None:
    """Note that something happened."""
    row = {"id": _next_id(connection, t.events), "kind": kind, "text": plain_text(text)}
    connection.execute(t.events.insert(), {**row, "at": at})


def read_events(connection: Connection) -> list[Event]:
    """Load all events, oldest first."""
    rows = connection.execute(select(t.events).order_by(t.events.c.id))
    return [Event(row.kind, row.text, row.at) for row in rows]


def acknowledge(
    connection: Connection, number: int, institution: int, metrics: Mapping[str, float], at: float
) -> None:
    """Record what an institution makes of what it was last sent."""
    enrolled = select(t.institutions.c.id).where(t.institutions.c.id == institution)
    if connection.scalar(enrolled) is None:
        raise LedgerError(f"no institution is enrolled as {institution}: enrol it first")
    row = {"round": number, "institution": institution, "metrics": metrics_json(metrics), "at": at}
    row["id"] = _next_id(connection, t.acknowledgements)
    connection.execute(t.acknowledgements.insert(), row)


def read_acknowledgements(connection: Connection) -> dict[int, dict[str, float]]:
    """Load the last acknowledgement of each institution, by id."""
    query = select(t.acknowledgements.c.institution, t.acknowledgements.c.metrics)
    rows = connection.execute(query.order_by(t.acknowledgements.c.id))
    return {row.institution: json.loads(row.metrics) for row in rows}


def read_last_heard(connection: Connection) -> dict[int, int]:
    """Load the number of the last message that each institution answered; −1: none."""
    heard = dict.fromkeys(connection.scalars(select(t.institutions.c.id)), -1)
    for table in (t.reports, t.acknowledgements):
        query = select(table.c.institution, func.max(table.c.round)).group_by(table.c.institution)
        for institution, number in connection.execute(query):
            heard[institution] = max(heard[institution], number)
    return heard


def _next_id(connection: Connection, table: Table) -> int:
    return int(connection.scalar(select(func.count()).select_from(table)) or 0)
