"""A ledger's file opened to be read and nothing else, also where its folder can't be written.

SQLite's readers and writer meet in ``NAME-shm`` beside the file. While somebody writes it is there,
and read locks on it are all that a reader needs. When nobody has the ledger open it is gone, and
can't be made on a read-only mount: then the file alone holds everything, and is read without locks.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from ipfl_flower.ledger.records import LedgerError
from ipfl_flower.ledger.sqlite import SQLite


class SQLiteReader(SQLite):
    """A ledger in a SQLite file that nothing done with it can change, nor hold up its writer.

    Parameters
    ----------
    path : Path
        The file; user and mount need no right to write to it or to its folder.
    """

    def _make_engine(self) -> Engine:
        # Each connection sees anew whether there are locks to take.
        return create_engine(
            "sqlite+pysqlite://", creator=lambda: open_reader(self._path), poolclass=NullPool
        )

    def hold(self) -> None:
        """Refuse: the server of a ledger writes."""
        raise self._refusal()

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Connection]:
        """Lend a connection to read.

        Raises
        ------
        LedgerError
            To write was asked for; or without locks, somebody wrote meanwhile: what was read
            may be half of it.
        """
        if write:
            raise self._refusal()
        before = _stamp(self._path)
        with super().session(write=False) as connection:
            unlocked = connection.connection.driver_connection
            yield connection
        if isinstance(unlocked, _Unlocked) and _stamp(self._path) != before:
            raise LedgerError(f"ledger {self.name}: a server began to write to it: read it again")

    def _set_journal(self) -> None:
        """Leave it as it is: that would be a write."""

    def _refusal(self) -> LedgerError:
        return LedgerError(f"ledger {self.name}: it was opened to be read, and can't be written")


class _Unlocked(sqlite3.Connection):
    """Reads the file alone, and takes no lock."""


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a SQLite file to be read, with its locks; where there are none to be had, without.

    Raises
    ------
    sqlite3.Error
        It can't be opened.
    """
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    reader = sqlite3.connect(address, uri=True, check_same_thread=False)
    try:
        reader.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError as error:
        reader.close()
        # With a -wal, the file alone is not everything.
        if error.sqlite_errorname != "SQLITE_CANTOPEN" or _wal(path).exists():
            raise
        return sqlite3.connect(
            f"{address}&immutable=1", uri=True, check_same_thread=False, factory=_Unlocked
        )
    except sqlite3.DatabaseError:  # no database at all: that is said when it is read
        pass
    return reader


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when pages are written into the file: they come from the -wal."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
