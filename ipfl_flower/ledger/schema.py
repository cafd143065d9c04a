"""Versions of the ledger's tables: creating them, recognising them, upgrading them with Alembic.

A new ledger gets the tables as `tables` has them and the newest version's mark; the migrations lead
an older one there. Tests hold that both ways end in the same schema, on both databases.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.guards import create_guards
from ipfl_flower.ledger.records import LedgerError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def create_tables(connection: Connection) -> str:
    """Create the tables of a new ledger, guarded and marked with the newest version: return it."""
    t.METADATA.create_all(connection, checkfirst=False)
    for table in t.APPEND_ONLY:
        create_guards(connection, table)
    connection.execute(t.schema.insert(), {"version_num": t.SCHEMA_VERSION})
    return t.SCHEMA_VERSION


def read_version(connection: Connection, name: str) -> str | None:
    """Read the version of the schema of ledger `name`; None if there are no tables.

    Raises
    ------
    LedgerError
        There are tables, but they are no ledger's.
    """
    names = inspect(connection).get_table_names()
    if not names:
        return None
    known = t.schema.name in names
    version: str | None = connection.scalar(select(t.schema.c.version_num)) if known else None
    if version is None or not version.startswith("ipfl"):
        raise LedgerError(f"ledger {name}: it is another program's database: check the path or URL")
    return version


def check_version(version: str, name: str) -> None:
    """Refuse a ledger whose tables are of another version than this program's.

    Raises
    ------
    LedgerError
        Older: the message says how to upgrade it. Newer, or unknown: which program to use.
    """
    if version != t.SCHEMA_VERSION:
        check_older(version, name)
        raise LedgerError(
            f"ledger {name}: its schema is {version}, this program needs {t.SCHEMA_VERSION}: "
            "stop its server, back it up with the program that wrote it, and run: "
            "ipfl ledger upgrade LEDGER"
        )


def check_older(version: str, name: str) -> None:
    """Refuse a ledger of a version that this program has no migrations from.

    Raises
    ------
    LedgerError
        The version is newer, or unknown.
    """
    if version not in _revisions():
        raise LedgerError(
            f"ledger {name}: its schema is {version}, this program knows {t.SCHEMA_VERSION} and "
            "older: use the version of ipfl-flower that wrote it"
        )


def upgrade(connection: Connection) -> None:
    """Lead the ledger's tables to the newest version, within the connection's transaction."""
    from alembic import command  # noqa: PLC0415  # slow to load, and needed here alone

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revisions() -> set[str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # as above

    return {r.revision for r in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415  # as above

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
