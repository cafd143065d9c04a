"""The first tables. This is how they were: later changes are migrations of their own."""

from typing import Any

from alembic import op
from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from ipfl_flower.ledger.guards import create_guards

revision = "ipfl0001"
down_revision = None

METADATA = MetaData()


def _number(name: str, *constraints: Any, nullable: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(Integer(), "sqlite")
    return Column(name, kind, *constraints, nullable=nullable, autoincrement=False)


def _real(name: str) -> Column[float]:
    return Column(name, Double().with_variant(REAL(), "sqlite"), nullable=False)


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable)


def _flag(name: str) -> tuple[Column[int], CheckConstraint]:
    return _number(name), CheckConstraint(f"{name} IN (0, 1)")


def _table(name: str, *items: Any) -> Table:
    return Table(name, METADATA, *items, sqlite_strict=True)


def upgrade() -> None:
    """Create and guard all tables."""
    connection = op.get_bind()
    METADATA.create_all(connection, checkfirst=False)
    for table in METADATA.sorted_tables:
        create_guards(connection, table)


_table(
    "market",
    _number("id"),
    _text("settings"),
    _text("digest"),
    _real("at"),
    PrimaryKeyConstraint("id"),
    CheckConstraint("id = 0"),
)

_table(
    "institutions",
    _number("id"),
    _text("name"),
    Column("public_key", LargeBinary, nullable=False),
    _number("samples_cap", nullable=True),
    _real("at"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
    UniqueConstraint("public_key"),
)

_table(
    "rounds",
    _number("number"),
    _real("deadline_s"),
    _number("quorum"),
    PrimaryKeyConstraint("number"),
)

_table(
    "asked",
    _number("round", ForeignKey("rounds.number")),
    _number("institution", ForeignKey("institutions.id")),
    PrimaryKeyConstraint("round", "institution"),
)

_table(
    "transitions",
    _number("round", ForeignKey("rounds.number")),
    _text("state"),
    _text("detail", nullable=True),
    _real("at"),
    PrimaryKeyConstraint("round", "state"),
    CheckConstraint("state IN ('OPEN', 'COLLECTING', 'SETTLED', 'DELIVERED', 'ABANDONED')"),
)

_table(
    "reports",
    _number("round"),
    _number("institution"),
    _number("samples"),
    _real("cost"),
    _real("eagerness"),
    _real("budget"),
    _text("model_digest"),
    *_flag("leaving"),
    _text("metrics"),
    _real("at"),
    PrimaryKeyConstraint("round", "institution"),
    ForeignKeyConstraint(["round", "institution"], ["asked.round", "asked.institution"]),
)

_table(
    "refusals",
    _number("round"),
    _number("institution"),
    _number("attempt"),
    _text("reason"),
    _real("at"),
    PrimaryKeyConstraint("round", "institution", "attempt"),
    ForeignKeyConstraint(["round", "institution"], ["asked.round", "asked.institution"]),
)

_table(
    "settlements",
    _number("round", ForeignKey("rounds.number")),
    _text("rules"),
    Column("distances", LargeBinary, nullable=False),
    _number("fallbacks"),
    PrimaryKeyConstraint("round"),
)

_table(
    "outcomes",
    _number("round", ForeignKey("settlements.round")),
    _number("institution"),
    *_flag("active"),
    *_flag("declined"),
    _number("net_micro"),
    _real("gain"),
    _real("utility"),
    PrimaryKeyConstraint("round", "institution"),
    ForeignKeyConstraint(["round", "institution"], ["reports.round", "reports.institution"]),
)

entries = _table(
    "entries",
    _number("id"),
    _number("round", ForeignKey("rounds.number")),
    _number("payer", ForeignKey("institutions.id")),
    _number("payee", ForeignKey("institutions.id")),
    _number("amount_micro"),
    _text("kind"),
    _number("reverses", ForeignKey("entries.id"), nullable=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("reverses"),
    CheckConstraint("payer <> payee"),
    CheckConstraint("amount_micro >= 0"),
    CheckConstraint("kind IN ('transfer', 'correction')"),
    CheckConstraint("(kind = 'correction') = (reverses IS NOT NULL)"),
)
Index(
    "entries_once",
    entries.c.round,
    entries.c.payer,
    entries.c.payee,
    unique=True,
    sqlite_where=entries.c.kind == "transfer",
    postgresql_where=entries.c.kind == "transfer",
)
Index("entries_payer", entries.c.payer)
Index("entries_payee", entries.c.payee)

_table(
    "chain",
    _number("round", ForeignKey("rounds.number")),
    _text("previous"),
    _text("digests"),
    _text("head"),
    PrimaryKeyConstraint("round"),
)

_table(
    "acknowledgements",
    _number("id"),
    _number("round"),
    _number("institution", ForeignKey("institutions.id")),
    _text("metrics"),
    _real("at"),
    PrimaryKeyConstraint("id"),
)

_table(
    "events",
    _number("id"),
    _text("kind"),
    _text("text"),
    _real("at"),
    PrimaryKeyConstraint("id"),
)
