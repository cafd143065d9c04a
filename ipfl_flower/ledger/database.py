"""What the ledger needs of a database beyond SQL: opening, transactions, locks, what can be wrong.

Everything that only one database needs is in its own module (`sqlite`, `postgresql`); the rest of
the ledger is the same for both.
"""

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sqlalchemy import Connection

from ipfl_flower.ledger import schema
from ipfl_flower.ledger.records import LedgerError


class Database(ABC):
    """A database that holds one ledger, or may come to.

    Parameters
    ----------
    name : str
        What messages call it: a file or a URL, never with its password.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, *, create: bool, serve: bool) -> None:
        """Open the ledger for use, as its one server if `serve`; see `Ledger.open`."""
        try:
            schema.check_version(self.connect(create=create), self.name)
            if serve:
                self.hold()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def connect(self, *, create: bool) -> str:
        """Reach the ledger, or make a new one if `create`, and return its schema's version.

        Raises
        ------
        LedgerError
            It is missing, unreachable, not readable, or another program's.
        """

    @abstractmethod
    def hold(self) -> None:
        """Become the one server of this ledger, until `close` or the end of the process.

        Raises
        ------
        LedgerError
            Another server holds it; the message names it.
        """

    @abstractmethod
    def holder(self) -> str | None:
        """Name the process that is this ledger's server now; None: nobody is."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections and release what `hold` took."""

    @abstractmethod
    def explained(self) -> AbstractContextManager[None]:
        """Turn any database error inside the block into one LedgerError line that names it."""

    @abstractmethod
    def session(self, *, write: bool) -> AbstractContextManager[Connection]:
        """Lend a connection that begins snapshots to read, or one write transaction at a time."""

    @abstractmethod
    def health(self, connection: Connection) -> list[str]:
        """List what the database itself finds wrong, and the guards that are missing."""

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[Connection]:
        """Open a transaction; a write is durable when the block ends, else undone."""
        with (
            self.explained(),
            self.session(write=write) as connection,
            connection.begin() as transaction,
        ):
            yield connection
            if not write:
                transaction.rollback()  # of a damaged file, even an empty commit fails

    @abstractmethod
    def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the ledger to the new file `path`: a SQLite ledger."""

    @abstractmethod
    def fill_from(self, source: "Database") -> None:
        """Become a copy of the ledger in `source`, whole or not at all.

        Raises
        ------
        LedgerError
            There is something here already.
        """


def this_process() -> str:
    """Name this process as the holder of a ledger."""
    return f"process {os.getpid()} on {platform.node() or 'this machine'}"


def held_by(name: str, holder: str) -> LedgerError:
    """Make the refusal of a second server."""
    return LedgerError(
        f"ledger {name}: {holder} serves it already: stop that server first, or use another ledger"
    )
