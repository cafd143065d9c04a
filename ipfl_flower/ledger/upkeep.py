"""Keeping a ledger over the years: backup, restore, and upgrade of its tables."""

from pathlib import Path

from ipfl_flower.ledger import schema, verify
from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.addresses import find_database
from ipfl_flower.ledger.database import Database
from ipfl_flower.ledger.records import LedgerError


def backup(database: Database, path: Path) -> None:
    """Copy the ledger in `database` to the new file `path`; see `Ledger.backup`."""
    try:
        database.copy_to(path)
    except FileExistsError as error:
        raise LedgerError(f"{path} exists already: give a name that is free") from error
    except OSError as error:
        raise LedgerError(f"cannot write {path} ({error.strerror}): check its folder") from error


def restore(source: str | Path, target: str | Path) -> None:
    """Make `target` a copy of the ledger `source`, which must verify.

    Parameters
    ----------
    source : str or Path
        A backup; any other ledger will do.
    target : str or Path
        A new file, or the URL of an empty PostgreSQL database.

    Raises
    ------
    LedgerError
        `source` does not verify, or `target` has something in it. It is left as it is then.
    """
    old, new = find_database(source), find_database(target)
    try:
        old.open(create=False, serve=False)
        with old.transaction(write=False) as connection:
            wrong = verify.problems(connection, old.health)
        if wrong:
            more = f", and {len(wrong) - 1} more" if wrong[1:] else ""
            raise LedgerError(f"ledger {old.name} does not verify: {wrong[0]}{more}: nothing done")
        new.fill_from(old)
    except FileExistsError as error:
        raise LedgerError(f"{new.name} exists already: give a name that is free") from error
    except OSError as error:
        raise LedgerError(f"cannot write {new.name} ({error.strerror}): check it") from error
    finally:
        old.close()
        new.close()


def upgrade(url_or_path: str | Path) -> tuple[str, str]:
    """Lead an older ledger's tables to this program's version, all or nothing.

    Returns
    -------
    tuple of str
        The version before and after; the same if there was nothing to do.

    Raises
    ------
    LedgerError
        A server has the ledger open, or it is newer than this program.
    """
    database = find_database(url_or_path)
    try:
        version = database.connect(create=False)
        database.hold()
        if version != t.SCHEMA_VERSION:
            schema.check_older(version, database.name)
            with database.transaction(write=True) as connection:
                schema.upgrade(connection)
        return version, t.SCHEMA_VERSION
    finally:
        database.close()
