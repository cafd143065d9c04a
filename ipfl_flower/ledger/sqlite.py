"""SQLite as the ledger's database: opening, durability, and what can be wrong with the file.

Everything that only SQLite needs is here and in `tables.sqlite_triggers`; the rest of the ledger is
the same for any database.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import LedgerError

BUSY_TIMEOUT_MS: Final = 10_000

_PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)

# SQLite's result code, by the beginning of its name, to what happened and what to do.
_EXPLAINED: Final = (
    ("SQLITE_BUSY", "another process has been writing to it for 10 s", "stop that process"),
    ("SQLITE_NOTADB", "it is not a SQLite database", "check the path"),
    ("SQLITE_CORRUPT", "the file is damaged", "restore a backup"),
    ("SQLITE_FULL", "the disk is full", "free some space; the transaction was not recorded"),
    ("SQLITE_READONLY", "it cannot be written", "check the permissions of the file and folder"),
    ("SQLITE_CANTOPEN", "it cannot be opened", "check the path and its permissions"),
    ("SQLITE_IOERR", "reading or writing failed", "check the disk"),
)


def open_engine(path: Path, *, create: bool) -> Engine:
    """Open the ledger file at `path`.

    Parameters
    ----------
    path : Path
        The database file.
    create : bool
        Whether a missing file becomes a new ledger (mode 0600).

    Returns
    -------
    Engine
        Connections begin transactions deferred, or at once (BEGIN IMMEDIATE) with the execution
        option ``immediate=True``.

    Raises
    ------
    LedgerError
        The file is missing, unreadable, damaged, not a ledger, or of another schema version.
    """
    _find(path, create=create)
    engine = _engine(path)
    try:
        with explained(path):
            _check_schema(engine, path)
            _use_wal(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn any database error inside the block into one LedgerError line that names the file."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(origin, "sqlite_errorname", "")
        for prefix, what, fix in _EXPLAINED:
            if code.startswith(prefix):
                raise LedgerError(f"ledger {path}: {what} ({origin}): {fix}") from error
        raise LedgerError(f"ledger {path}: {origin}") from error
    except UnicodeDecodeError as error:
        # The driver cannot even decode SQLite's complaint when that quotes a damaged schema.
        raise LedgerError(
            f"ledger {path}: the file is damaged ({error.reason} in its text): restore a backup"
        ) from error


def health(connection: Connection) -> list[str]:
    """List what SQLite itself finds wrong with the file, and what of the schema was changed."""
    wrong = [
        str(row[0]) for row in connection.execute(text("PRAGMA integrity_check")) if row[0] != "ok"
    ]
    for table, rowid, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
        wrong.append(f"row {rowid} of {table} refers to a row of {parent} that does not exist")
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    stored: dict[str, str] = dict(connection.execute(text(query)).all())
    for name, statement in _definitions(connection):
        if stored.get(name, "").strip() != statement:
            wrong.append(f"the definition of {name} is not the ledger's")
    for table in t.APPEND_ONLY:
        for name, statement in t.sqlite_triggers(table).items():
            if stored.get(name) != statement:
                wrong.append(f"the trigger {name}, which keeps the table append-only, is missing")
    return wrong


def _definitions(connection: Connection) -> Iterator[tuple[str, str]]:
    """Spell each table and index as it was made: a changed constraint lets in what it kept out."""
    for table in t.METADATA.sorted_tables:
        yield table.name, str(CreateTable(table).compile(connection)).strip()
        for index in table.indexes:
            yield str(index.name), str(CreateIndex(index).compile(connection)).strip()


def _find(path: Path, *, create: bool) -> None:
    """See that there is a file that can be read, making a new ledger if it may."""
    try:
        if create and not path.exists():
            _create(path)
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        fix = "create its folder" if create else "start a market first, or check the path"
        raise LedgerError(f"no ledger at {path}: {fix}") from error
    except OSError as error:
        raise LedgerError(f"ledger {path}: {error.strerror}: check the path") from error
    if empty:
        raise LedgerError(f"ledger {path}: the file is empty: remove it, or check the path")


def _create(path: Path) -> None:
    """Make a ledger beside `path`, then give it that name: a reader never sees half of it."""
    descriptor, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    os.close(descriptor)
    try:
        with explained(path):
            engine = _engine(Path(name))
            with engine.connect() as connection, connection.begin():
                t.METADATA.create_all(connection, checkfirst=False)
                connection.execute(t.schema.insert(), {"version_num": t.SCHEMA_VERSION})
            _use_wal(engine)
            engine.dispose()
        with suppress(FileExistsError):  # another process was faster: its ledger is as good
            os.link(name, path)
    finally:
        Path(name).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)))
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _use_wal(engine: Engine) -> None:
    """Let readers read while one writes. It stays in the file, but not in a copy by VACUUM INTO."""
    with engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        raw.execute("PRAGMA journal_mode = WAL")  # SQLite allows it outside a transaction alone


def _check_schema(engine: Engine, path: Path) -> None:
    with engine.connect() as connection, connection.begin():
        known = inspect(connection).has_table(t.schema.name)
        version = connection.scalar(select(t.schema.c.version_num)) if known else None
    if version is None or not version.startswith("ipfl"):
        raise LedgerError(f"ledger {path}: it is another program's database: check the path")
    if version != t.SCHEMA_VERSION:
        raise LedgerError(
            f"ledger {path}: its schema is {version}, this program knows {t.SCHEMA_VERSION}: "
            "use the version of ipfl-flower that wrote it"
        )


def _on_connect(raw: sqlite3.Connection, _record: object) -> None:
    raw.isolation_level = None  # transactions begin where _on_begin says, not by the driver's guess
    for pragma in _PRAGMAS:
        raw.execute(pragma)


def _on_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
