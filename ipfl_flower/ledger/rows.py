"""Records to rows and back. What is read here may have been tampered with: it is checked."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Table, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.chain import canonical
from ipfl_flower.ledger.records import LedgerError, Report, Settlement
from ipfl_flower.market import Clearing, Rules, Terms

Rows: TypeAlias = list[dict[str, Any]]

TRANSFER: Final = "transfer"


def report_row(report: Report) -> dict[str, Any]:
    """Spell a report as a row of `reports`, without its time."""
    terms = report.terms
    return {
        "round": report.round,
        "institution": report.institution,
        "samples": int(terms.samples),
        "cost": _real(terms.cost),
        "eagerness": _real(terms.eagerness),
        "budget": _real(terms.budget),
        "model_digest": report.model_digest,
        "leaving": int(report.leaving),
        "metrics": metrics_json(report.metrics),
    }


def metrics_json(metrics: Mapping[str, float]) -> str:
    """Spell metrics as canonical JSON, which here may hold NaN and Infinity."""
    return canonical({name: float(value) for name, value in metrics.items()}, allow_nan=True)


def plain_text(text: str) -> str:
    """Escape what PostgreSQL keeps in no text (NUL) and UTF-8 not at all (half a surrogate)."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def read_reports(connection: Connection, number: int) -> list[Report]:
    """Load the reports of round `number`, by institution.

    Raises
    ------
    LedgerError
        A row does not make a report.
    """
    query = select(t.reports).where(t.reports.c.round == number)
    rows = connection.execute(query.order_by(t.reports.c.institution)).all()
    return [_report(row) for row in rows]


def settlement_rows(settlement: Settlement, first_entry: int) -> dict[Table, Rows]:
    """Spell a settlement as rows; its terms, digests and metrics are in `reports` already.

    Parameters
    ----------
    settlement : Settlement
        A settlement without faults (`checks.settlement_faults`).
    first_entry : int
        Id of its first entry.

    Returns
    -------
    dict of Table to list of row
        In the order in which they can be inserted; entries by buyer, then seller.
    """
    number, ids, cleared = settlement.round, settlement.participants, settlement.clearing
    outcomes = [
        {
            "round": number,
            "institution": institution,
            "active": int(settlement.active[i]),
            "declined": int(cleared.declined[i]),
            "net_micro": int(cleared.net[i]),
            "gain": _real(cleared.gains[i]),
            "utility": _real(cleared.utilities[i]),
        }
        for i, institution in enumerate(ids)
    ]
    buyers, sellers = np.nonzero(cleared.imports)
    amounts = cleared.transfers[buyers, sellers].tolist()
    edges = zip(buyers.tolist(), sellers.tolist(), amounts, strict=True)
    entries = [
        {
            "id": first_entry + k,
            "round": number,
            "payer": ids[buyer],
            "payee": ids[seller],
            "amount_micro": amount,
            "kind": TRANSFER,
            "reverses": None,
        }
        for k, (buyer, seller, amount) in enumerate(edges)
    ]
    decided = {
        "round": number,
        "rules": canonical(dataclasses.asdict(settlement.rules), allow_nan=True),
        "distances": _distance_bytes(settlement.distances),
        "fallbacks": int(cleared.fallbacks),
    }
    return {t.settlements: [decided], t.outcomes: outcomes, t.entries: entries}


def stored_rows(connection: Connection, number: int) -> dict[Table, Rows]:
    """Load the rows that `settlement_rows` made of round `number`."""
    order = {
        t.settlements: select(t.settlements),
        t.outcomes: select(t.outcomes).order_by(t.outcomes.c.institution),
        t.entries: select(t.entries).where(t.entries.c.kind == TRANSFER).order_by(t.entries.c.id),
    }
    found: dict[Table, Rows] = {}
    for table, query in order.items():
        names = table.columns.keys()
        rows = connection.execute(query.where(table.c.round == number)).all()
        # By names of our own: a mapping of SQLAlchemy's looks them up anew for each row.
        found[table] = [dict(zip(names, row, strict=True)) for row in rows]
    return found


def next_entry(connection: Connection, number: int) -> int:
    """Find the id of the first entry of round `number`: ids run on from round to round."""
    entries = t.entries.c
    earlier = select(func.max(entries.round)).where(entries.round < number).scalar_subquery()
    found: int | None = connection.scalar(
        select(func.max(entries.id)).where(entries.round == earlier)
    )
    return 0 if found is None else found + 1


def read_settlement(connection: Connection, number: int) -> Settlement:
    """Load round `number` as it was settled.

    Raises
    ------
    LedgerError
        The round is not settled, or its rows do not make a settlement.
    """
    stored = stored_rows(connection, number)
    if not stored[t.settlements]:
        raise LedgerError(f"round {number} is not settled")
    decided, outcomes = stored[t.settlements][0], stored[t.outcomes]
    reports = read_reports(connection, number)
    participants = tuple(report.institution for report in reports)
    if participants != tuple(row["institution"] for row in outcomes):
        raise LedgerError(f"round {number}: outcomes are not of exactly those that reported")
    try:
        rules = Rules(**json.loads(decided["rules"]))
        distances = _distances(decided["distances"], len(participants))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"round {number}: settlements cannot be read: {error}") from error
    imports, transfers = _edges(stored[t.entries], participants)
    return Settlement(
        round=number,
        participants=participants,
        terms=tuple(report.terms for report in reports),
        distances=distances,
        active=_column(outcomes, "active", np.bool_),
        rules=rules,
        clearing=Clearing(
            imports=imports,
            transfers=transfers,
            net=_column(outcomes, "net_micro", np.int64),
            gains=_column(outcomes, "gain", np.float64),
            utilities=_column(outcomes, "utility", np.float64),
            declined=_column(outcomes, "declined", np.bool_),
            fallbacks=decided["fallbacks"],
        ),
        model_digests=tuple(report.model_digest for report in reports),
        metrics=tuple(report.metrics for report in reports),
    )


def _report(row: Row[*tuple[Any, ...]]) -> Report:
    try:
        return Report(
            round=row.round,
            institution=row.institution,
            terms=Terms(row.samples, row.cost, row.eagerness, row.budget),
            model_digest=row.model_digest,
            leaving=bool(row.leaving),
            metrics=json.loads(row.metrics),
        )
    except ValueError as error:
        where = f"round {row.round}: the report of institution {row.institution}"
        raise LedgerError(f"{where} cannot be read: {error}") from error


def _edges(entries: Rows, ids: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    m = len(ids)
    position = {institution: i for i, institution in enumerate(ids)}
    imports, transfers = np.zeros((m, m), np.bool_), np.zeros((m, m), np.int64)
    for row in entries:
        if row["payer"] not in position or row["payee"] not in position:
            raise LedgerError(
                f"round {row['round']}: entry {row['id']} is between {row['payer']} and "
                f"{row['payee']}, and not both of them reported"
            )
        edge = position[row["payer"]], position[row["payee"]]
        imports[edge] = True
        transfers[edge] = row["amount_micro"]
    return imports, transfers


def _column(rows: Rows, name: str, dtype: Any) -> NDArray[Any]:
    return np.array([row[name] for row in rows], dtype=dtype)


def _distance_bytes(distances: NDArray[np.float64]) -> bytes:
    """Encode as little-endian float64, row by row, with one bit pattern for NaN."""
    return np.where(np.isnan(distances), np.nan, distances).astype("<f8").tobytes()


def _distances(encoded: bytes, m: int) -> NDArray[np.float64]:
    return np.frombuffer(encoded, "<f8").reshape(m, m).astype(np.float64)


def _real(value: float) -> float:
    """Make a float of `value` that every database keeps: SQLite stores -0.0 as 0.0."""
    return float(value) + 0.0
