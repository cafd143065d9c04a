"""Where a ledger is: a file or a URL, to its database."""

import re
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ipfl_flower.ledger.database import Database
from ipfl_flower.ledger.postgresql import PostgreSQL
from ipfl_flower.ledger.records import LedgerError
from ipfl_flower.ledger.sqlite import SQLite

_FIX = "give a file, sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE"


def find_database(url_or_path: str | Path) -> Database:
    """Take the database from a path or URL, without opening it.

    Raises
    ------
    LedgerError
        It is neither SQLite's nor PostgreSQL's, or not a URL at all. No message has its password.
    """
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return SQLite(Path(url_or_path))
    try:
        url = make_url(url_or_path)
    except (ArgumentError, ValueError):  # they quote the URL, password and all
        shown = re.sub(r"://.*@", "://***@", url_or_path).partition("?")[0]
        raise LedgerError(f"{shown!r} is not a URL: {_FIX}") from None
    shown = url.set(query={}).render_as_string(hide_password=True)
    if url.drivername in {"postgresql", "postgresql+psycopg"}:
        if not url.database:
            raise LedgerError(f"{shown} names no database: {_FIX}")
        if "@" in (url.host or ""):
            raise LedgerError("in the ledger's URL, write an @ that is part of the password as %40")
        return PostgreSQL(url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise LedgerError(f"{shown} is no database for a ledger: {_FIX}")
    return SQLite(Path(url.database))
