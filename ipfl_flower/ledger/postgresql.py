"""PostgreSQL as the ledger's database: one ledger a database, one writer at a time."""

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    URL,
    CheckConstraint,
    Connection,
    ForeignKeyConstraint,
    Table,
    UniqueConstraint,
    and_,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from ipfl_flower.ledger import guards, schema, sqlite
from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.copying import copy_rows
from ipfl_flower.ledger.database import Database, held_by, this_process
from ipfl_flower.ledger.records import LedgerError

CONNECT_TIMEOUT_S: Final = 10
LOCK_TIMEOUT_MS: Final = 10_000

# Advisory locks of the database: the transaction that writes, and the session that serves.
_WRITING, _SERVING = 0x6970666C, 0x6970666D

# SQLSTATE, by its beginning, to what happened and what to do.
_STATES: Final = (
    ("55P03", "another process has been writing to it for 10 s", "stop that process"),
    ("53100", "the disk is full", "free some space; the transaction was not recorded"),
    ("53300", "it has too many connections", "close some, or raise max_connections"),
    ("25006", "it cannot be written", "connect to the primary, not a standby"),
    ("42501", "the role may not do that", "make it the owner of the database"),
    ("57P0", "the server is shutting down or starting", "try again"),
    ("XX001", "the database is damaged", "restore a backup"),
    ("XX002", "the database is damaged", "restore a backup"),
    ("58030", "reading or writing failed", "check the server's disk"),
)
# What libpq says when it cannot connect: it has no SQLSTATE then.
_REFUSED: Final = (
    (r"database .* does not exist", "there is no such database", "create it, or check the URL"),
    (r"role .* does not exist|authentication failed|no password supplied",
     "the server does not accept the user or password", "check both"),
    (r"no pg_hba\.conf entry", "the server does not let this user in from here",
     "check its pg_hba.conf"),
    (r"could not translate host name|failed to resolve host", "there is no such host",
     "check the URL; in a password, write @ as %40"),
    (r"refused|timeout|timed out|No such file|unreachable", "no server answers there",
     "start it, or check host and port"),
)  # fmt: skip
_LOST: Final = ("the connection to the server was lost", "check that it runs, and start again")


class PostgreSQL(Database):
    """A ledger that is the one content of a PostgreSQL database.

    Parameters
    ----------
    url : URL
        Of the database.

    Raises
    ------
    LedgerError
        The driver is not installed.
    """

    def __init__(self, url: URL) -> None:
        super().__init__(url.set(query={}).render_as_string(hide_password=True))
        url = url.set(drivername="postgresql+psycopg")
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "client_encoding": "utf8",
            "application_name": f"ipfl, {this_process()}"[:63],
            **url.query,
        }
        try:
            self.engine = create_engine(
                url.set(query={}),
                connect_args=arguments,
                isolation_level="READ COMMITTED",
                pool_pre_ping=True,
            )
        except ImportError as error:
            raise LedgerError(
                f"ledger {self.name}: the PostgreSQL driver is missing: "
                "pip install 'ipfl-flower[postgres]'"
            ) from error
        event.listen(self.engine, "connect", _on_connect)
        event.listen(self.engine, "begin", _on_begin)
        # The server's writes go through the session that holds its lock: with it, both are lost.
        self._held: Connection | None = None
        self._one_writer = threading.Lock()

    def connect(self, *, create: bool) -> str:
        """Reach the server; create the tables in an empty database if that may be."""
        with self.transaction(write=False) as connection:
            encoding = connection.scalar(text("SHOW server_encoding"))
            version = schema.read_version(connection, self.name)
        if encoding != "UTF8":
            raise LedgerError(
                f"ledger {self.name}: the database's encoding is {encoding}: "
                "create it with ENCODING 'UTF8' TEMPLATE template0"
            )
        if version is None and not create:
            raise LedgerError(f"no ledger at {self.name}: start a market first, or check the URL")
        if version is None:
            with self.transaction(write=True) as connection:
                version = schema.read_version(connection, self.name)
                if version is None:  # else another process was faster: its ledger is as good
                    version = schema.create_tables(connection)
        return version

    def hold(self) -> None:
        """Take the database's advisory lock for the life of one session."""
        with self.explained():
            connection = self.engine.connect()
            try:
                connection.execution_options(write=False)
                taken = connection.scalar(text(f"SELECT pg_try_advisory_lock({_SERVING})"))
                holder = None if taken else connection.scalar(text(_HOLDER), {"lock": _SERVING})
                connection.commit()
            except BaseException:
                connection.close()
                raise
        if not taken:
            connection.close()
            raise held_by(self.name, holder or "another process")
        self._held = connection.execution_options(write=True)

    def holder(self) -> str | None:
        """Ask who has the advisory lock."""
        with self.transaction(write=False) as connection:
            found: str | None = connection.scalar(text(_HOLDER), {"lock": _SERVING})
        return found

    def close(self) -> None:
        """Close all sessions: the server lets go of the lock with the one that took it."""
        if self._held is not None:
            self._held.invalidate()
            self._held.close()
        self.engine.dispose()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Name the database, what happened, and what to do; a password is in none of it."""
        try:
            yield
        except PendingRollbackError as error:  # asked again after the connection was lost
            raise LedgerError(f"ledger {self.name}: {_LOST[0]}: {_LOST[1]}") from error
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):  # of the other end of a copy
                raise
            raise LedgerError(f"ledger {self.name}: {_explanation(error)}") from error

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Connection]:
        """Lend a connection that reads one snapshot, or sees what is committed and may write."""
        if write and self._held is not None:
            if self._held.invalidated:
                raise LedgerError(f"ledger {self.name}: {_LOST[0]}: {_LOST[1]}")
            with self._one_writer:
                yield self._held
            return
        with self.engine.connect() as connection:
            if write:
                connection.execution_options(write=True)
            else:
                connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            yield connection

    def health(self, connection: Connection) -> list[str]:
        """List guards and constraints that are missing, and rows that refer to nothing."""
        triggers = {row.name: tuple(row) for row in connection.execute(text(_TRIGGERS))}
        counts: dict[tuple[str, str], int] = {
            (row.name, row.kind): row.many for row in connection.execute(text(_CONSTRAINTS))
        }
        wrong = []
        for table in t.APPEND_ONLY:
            body = guards.postgresql_body(table)
            wrong += [
                f"the trigger {name}, which keeps the table append-only, is missing"
                for name in guards.postgresql_triggers(table)
                if triggers.get(name) != (name, table.name, "A", _event(name), body)
            ]
            for kind, (what, expected) in _constraints(table).items():
                found = counts.get((table.name, kind), 0)
                if found != expected:
                    wrong.append(f"{table.name} has {found} {what} constraints, not {expected}")
            wrong += _orphans(connection, table)
        return wrong

    def copy_to(self, path: Path) -> None:
        """Copy all rows of one snapshot into a SQLite ledger: a copy that verifies by itself."""
        with self.transaction(write=False) as connection:
            sqlite.write_rows(connection, path)

    def fill_from(self, source: Database) -> None:
        """Become a copy in one transaction: the database must be empty."""
        with self.transaction(write=True) as target, source.transaction(write=False) as rows:
            if schema.read_version(target, self.name) is not None:
                raise LedgerError(f"ledger {self.name}: it is not empty: give an empty database")
            schema.create_tables(target)
            copy_rows(rows, target)


# Bits of pg_trigger.tgtype: before 2, for each row 1, DELETE 8, UPDATE 16, TRUNCATE 32.
def _event(trigger: str) -> int:
    verbs = {"delete": 1 | 2 | 8, "update": 1 | 2 | 16, "truncate": 2 | 32}
    return verbs[trigger.rpartition("_")[2]]


_TRIGGERS: Final = """
    SELECT tgname AS name, relname, tgenabled::text, tgtype, prosrc
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE relnamespace = to_regnamespace(current_schema()) AND NOT tgisinternal
"""
_CONSTRAINTS: Final = """
    SELECT relname AS name, contype::text AS kind, count(*) AS many
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE relnamespace = to_regnamespace(current_schema()) AND convalidated
    GROUP BY relname, contype
"""
_HOLDER: Final = """
    SELECT regexp_replace(application_name, '^ipfl, ', '')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid = 0 AND objid = :lock AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def _constraints(table: Table) -> dict[str, tuple[str, int]]:
    """Count a table's constraints by their kind in pg_constraint."""
    kinds = {
        "c": ("check", CheckConstraint),
        "f": ("foreign key", ForeignKeyConstraint),
        "u": ("unique", UniqueConstraint),
    }
    return {
        kind: (what, sum(isinstance(c, cls) for c in table.constraints))
        for kind, (what, cls) in kinds.items()
    }


def _orphans(connection: Connection, table: Table) -> Iterator[str]:
    for key in table.foreign_key_constraints:
        parent = key.referred_table.alias("parent")
        pairs = [(table.c[e.parent.name], parent.c[e.column.name]) for e in key.elements]
        joined = table.outerjoin(parent, and_(*(mine == theirs for mine, theirs in pairs)))
        query = select(func.count()).select_from(joined)
        query = query.where(pairs[0][1].is_(None), *(mine.is_not(None) for mine, _ in pairs))
        if found := connection.scalar(query):
            where = key.referred_table.name
            yield f"{found} rows of {table.name} refer to rows of {where} that do not exist"


def _explanation(error: DBAPIError) -> str:
    state = getattr(error.orig, "sqlstate", None) or ""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    said = lines[0] if lines else type(error.orig).__name__
    if error.connection_invalidated or state.startswith("08"):
        return f"{_LOST[0]} ({said}): {_LOST[1]}"
    for beginning, what, fix in _STATES:
        if state.startswith(beginning):
            return f"{what} ({said}): {fix}"
    if not state:
        for pattern, what, fix in _REFUSED:
            if re.search(pattern, " ".join(lines)):
                return f"{what}: {fix}"
    return said


def _on_connect(raw: Any, _record: object) -> None:
    """Wait for the disk at each commit, whatever the server's default; and not for ever."""
    raw.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )
    raw.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    raw.commit()


def _on_begin(connection: Connection) -> None:
    if connection.get_execution_options().get("write", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITING})")
