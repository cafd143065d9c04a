"""Where a ledger is: a file or a URL, to its database."""

import re
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ipfl_flower.ledger.database import Database
from ipfl_flower.ledger.postgresql import PostgreSQL
from ipfl_flower.ledger.records import LedgerError
from ipfl_flower.ledger.sqlite import SQLite
from ipfl_flower.ledger.sqlite_reader import SQLiteReader

_FIX = "give a file, sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE"


def find_database(url_or_path: str | Path, *, read_only: bool = False) -> Database:
    """Take the database from a path or URL, without opening it.

    Parameters
    ----------
    url_or_path : str or Path
    read_only : bool
        Whether a file is never written. What PostgreSQL is asked to read is READ ONLY in any case;
        give a user that may do no more.

    Raises
    ------
    LedgerError
        It is neither SQLite's nor PostgreSQL's, or not a URL at all. No message has its password.
    """
    make = SQLiteReader if read_only else SQLite
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return make(Path(url_or_path))
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
    return make(Path(url.database))
