"""SQLite as the ledger's database: opening, durability, and what can be wrong with the file."""

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any, Final

from sqlalchemy import URL, Connection, Engine, Index, Table, create_engine, event, text
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from ipfl_flower.ledger import schema
from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.copying import copy_rows
from ipfl_flower.ledger.database import Database, held_by, this_process
from ipfl_flower.ledger.guards import sqlite_triggers
from ipfl_flower.ledger.records import LedgerError

BUSY_TIMEOUT_MS: Final = 10_000
LOCK_ATTEMPTS: Final = 20
LOCK_PAUSE_S: Final = 0.05

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


class SQLite(Database):
    """A ledger in a SQLite file.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._held: IO[str] | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what was opened
        self.engine = self._make_engine()
        event.listen(self.engine, "connect", _on_connect)

    def _make_engine(self) -> Engine:
        return create_engine(URL.create("sqlite+pysqlite", database=str(self._path)))

    def connect(self, *, create: bool) -> str:
        """See that there is a file that can be read, making a new ledger (mode 0600) if it may."""
        try:
            if create and not self._path.exists():
                with suppress(FileExistsError):  # another process was faster: as good as ours
                    write_new_file(self._path, _make)
            with self._path.open("rb") as file:
                empty = not file.read(1)
        except FileNotFoundError as error:
            fix = "create its folder" if create else "start a market first, or check the path"
            raise LedgerError(f"no ledger at {self.name}: {fix}") from error
        except OSError as error:
            raise LedgerError(f"ledger {self.name}: {error.strerror}: check the path") from error
        if empty:
            raise LedgerError(
                f"ledger {self.name}: the file is empty: remove it, or check the path"
            )
        with self.transaction(write=False) as connection:
            version = schema.read_version(connection, self.name)
        if version is None:
            raise LedgerError(f"ledger {self.name}: it has no tables: remove it, or check the path")
        self._set_journal()
        return version

    def _set_journal(self) -> None:
        with self.explained(), self.engine.connect() as connection:
            # Readers read while one writes. It stays in the file, but not in a VACUUM INTO copy.
            _raw(connection).execute("PRAGMA journal_mode = WAL")  # allowed outside a transaction

    def hold(self) -> None:
        """Lock the file beside the ledger's, NAME.lock; it stays there and says who held it last.

        The ledger's own file will not do: SQLite's locks on it would be lost with ours.
        """
        path = self._lock_path()
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        except OSError as error:
            raise LedgerError(
                f"ledger {self.name}: its lock {path} cannot be opened ({error.strerror}): "
                "check the folder's permissions"
            ) from error
        if not _locked(file):
            holder = file.readline().strip() or "another process"
            file.close()
            raise held_by(self.name, holder)
        file.truncate()
        file.write(f"{this_process()}\n")
        file.flush()
        self._held = file

    def holder(self) -> str | None:
        """Try the lock, and let go of it at once."""
        try:
            file = self._lock_path().open()
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.readline().strip() or "another process"
        return None

    def _lock_path(self) -> Path:
        path = self._path.resolve()
        return path.with_name(f"{path.name}.lock")

    def close(self) -> None:
        """Close the file, and let another server have it."""
        self.engine.dispose()
        if self._held is not None:
            self._held.close()

    def explained(self) -> AbstractContextManager[None]:
        """Name the file, what happened to it, and what to do."""
        return explained(self.name)

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Connection]:
        """Lend a connection whose transactions begin deferred, or at once to write."""
        self._follow()
        with self.engine.connect() as connection:
            # Not in a listener of SQLAlchemy's: one listener makes every statement look for others.
            _raw(connection).execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection

    def _follow(self) -> None:
        """Let go of a file in whose place another was put: readers go on with the new one."""
        try:
            found = self._path.stat()
        except FileNotFoundError as error:  # SQLite would make an empty one
            raise LedgerError(
                f"ledger {self.name}: the file is gone: put it back, or check the path"
            ) from error
        file = found.st_dev, found.st_ino
        if self._file not in (None, file):
            if self._held is not None:
                raise LedgerError(
                    f"ledger {self.name}: another file was put in its place while this process "
                    "serves it: stop it, see which of them is the ledger, and start again"
                )
            self.engine.dispose()
        self._file = file

    def health(self, connection: Connection) -> list[str]:
        """List what SQLite itself finds wrong with the file, and what of the schema was changed."""
        check = connection.execute(text("PRAGMA integrity_check"))
        wrong = [" ".join(str(row[0]).split()) for row in check if row[0] != "ok"]
        for table, rowid, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
            wrong.append(f"row {rowid} of {table} refers to a row of {parent} that does not exist")
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        stored: dict[str, str] = dict(connection.execute(text(query)).all())
        wrong += [
            f"the definition of {name} is not the ledger's"
            for name, statement in _definitions()
            if stored.get(name, "").strip() != statement
        ]
        wrong += [
            f"the trigger {name}, which keeps the table append-only, is missing"
            for table in t.APPEND_ONLY
            for name, statement in sqlite_triggers(table).items()
            if stored.get(name) != statement
        ]
        return wrong

    def copy_to(self, path: Path) -> None:
        """Copy page by page in one read transaction: writers go on meanwhile."""
        with self.explained(), self.engine.connect() as connection:
            write_new_file(path, lambda part: _copy_pages(_raw(connection), part))

    def fill_from(self, source: Database) -> None:
        """Become a copy: the file must not exist."""
        source.copy_to(self._path)


def write_rows(source: Connection, path: Path) -> None:
    """Write all rows that `source` sees to the new ledger file `path`."""

    def write(part: Path) -> None:
        _make(part)
        copy = SQLite(part)
        try:
            with copy.transaction(write=True) as target:
                copy_rows(source, target)
        finally:
            copy.close()

    write_new_file(path, write)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn any error of SQLite inside the block into one LedgerError line about ledger `name`."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(origin, sqlite3.Error):  # of the other end of a copy
            raise
        code = getattr(origin, "sqlite_errorname", "")
        for prefix, what, fix in _EXPLAINED:
            if code.startswith(prefix):
                raise LedgerError(f"ledger {name}: {what} ({origin}): {fix}") from error
        raise LedgerError(f"ledger {name}: {origin}") from error
    except UnicodeDecodeError as error:
        # The driver cannot even decode SQLite's complaint when that quotes a damaged schema.
        raise LedgerError(
            f"ledger {name}: the file is damaged ({error.reason} in its text): restore a backup"
        ) from error


def write_new_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, then give it that name: nobody sees half of it.

    Raises
    ------
    FileExistsError
        There is such a file already; it is left as it is.
    OSError
        The folder is missing or cannot be written.
    """
    folder = Path(mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        part = folder / path.name
        os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
        with explained(str(path)):
            write(part)
        _sync(part)
        os.link(part, path)
    finally:
        shutil.rmtree(folder)
    _sync(path.parent)


def _make(path: Path) -> None:
    """Make the empty file `path` a ledger."""
    new = SQLite(path)
    try:
        with new.transaction(write=True) as connection:
            schema.create_tables(connection)
    finally:
        new.close()


@cache
def _definitions() -> list[tuple[str, str]]:
    """Spell each table and index as it was made: a changed constraint lets in what it kept out."""
    made: list[tuple[str, Table | Index]] = []
    for table in t.METADATA.sorted_tables:
        made += [(table.name, table), *((str(index.name), index) for index in table.indexes)]
    return [(name, _spelled(item)) for name, item in made]


def _spelled(item: Table | Index) -> str:
    create = CreateTable(item) if isinstance(item, Table) else CreateIndex(item)
    return str(create.compile(dialect=sqlite_dialect())).strip()


def _copy_pages(raw: sqlite3.Connection, path: Path) -> None:
    with closing(sqlite3.connect(path)) as target:
        raw.backup(target)


def _locked(file: IO[str]) -> bool:
    """Take the lock; who only looks whether it is taken (`SQLite.holder`) has it for an instant."""
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOCK_PAUSE_S)
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _on_connect(raw: sqlite3.Connection, _record: object) -> None:
    raw.isolation_level = None  # transactions begin where session() says, not by the driver's guess
    for pragma in _PRAGMAS:
        raw.execute(pragma)
