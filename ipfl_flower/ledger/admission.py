"""Who may take part: an institution that was expelled may not, until it is admitted again."""

from typing import Final

from sqlalchemy import Connection, Row, func, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.journal import log_event, next_id
from ipfl_flower.ledger.records import LedgerError
from ipfl_flower.ledger.rows import plain_text

_LATEST: Final = select(func.max(t.admissions.c.id)).group_by(t.admissions.c.institution)
_STANDING: Final = select(t.admissions).where(t.admissions.c.id.in_(_LATEST))


def admit(connection: Connection, institution: int, at: float) -> float:
    """Note that an institution may take part; return since when."""
    name = connection.scalar(
        select(t.institutions.c.name).where(t.institutions.c.id == institution)
    )
    if name is None:
        raise LedgerError(f"no institution is enrolled as {institution}: enrol it first")
    standing = _read(connection, institution)
    if standing is not None and standing.admitted:
        return float(standing.at)
    _write(connection, institution, at, reason="", admitted=True)
    log_event(connection, "admitted", name, at)
    return at


def expel(connection: Connection, name: str, reason: str, at: float) -> None:
    """Note that an institution may take part no longer; once more changes nothing."""
    known = connection.execute(select(t.institutions.c.name, t.institutions.c.id))
    ids: dict[str, int] = dict(known.all())
    if name not in ids:
        everybody = ", ".join(ids) or "nobody yet"
        raise LedgerError(f"no institution is called {name!r}; in this market: {everybody}")
    standing = _read(connection, ids[name])
    if standing is not None and not standing.admitted:
        return
    _write(connection, ids[name], at, reason=reason, admitted=False)
    log_event(connection, "expelled", f"{name}: {reason}" if reason else name, at)


def read_expelled(connection: Connection) -> dict[int, str]:
    """Load why each institution that is expelled now is so, by id."""
    expelled = _STANDING.where(t.admissions.c.admitted == 0)
    rows = connection.execute(expelled.order_by(t.admissions.c.institution))
    return {row.institution: row.reason for row in rows}


def _read(connection: Connection, institution: int) -> Row[*tuple[object, ...]] | None:
    query = select(t.admissions).where(t.admissions.c.institution == institution)
    return connection.execute(query.order_by(t.admissions.c.id.desc()).limit(1)).first()


def _write(
    connection: Connection, institution: int, at: float, *, reason: str, admitted: bool
) -> None:
    row = {
        "id": next_id(connection, t.admissions),
        "institution": institution,
        "admitted": int(admitted),
    }
    connection.execute(t.admissions.insert(), {**row, "reason": plain_text(reason), "at": at})
