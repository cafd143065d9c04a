"""The ledger's tables: every row is written once and never changed.

A fact has one place. What an institution reported (terms, model digest, metrics) is in `reports`,
what the market decided in `settlements`, `outcomes` and `entries`, and `chain` seals both. Columns
named `at` are wall-clock times (seconds since 1970, UTC): they inform and prove nothing.

Types are spelled so that the same tables are STRICT on SQLite and native on PostgreSQL. A change
here needs a migration in `migrations/versions`, and tests hold the two together; the triggers that
keep the rows from being changed are in `guards`.
"""

from typing import Any, Final

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
from sqlalchemy.types import TypeEngine

SCHEMA_VERSION: Final = "ipfl0003"
"""Revision of these tables. It lies where Alembic looks for it (`alembic_version.version_num`)."""

MICRO: Final = 1_000_000
"""Units of money in a credit (mechanism.md §5)."""

METADATA: Final = MetaData()

# STRICT tables know INTEGER (64 bits) and REAL, and refuse BIGINT and DOUBLE.
_INT: Final = BigInteger().with_variant(Integer(), "sqlite")
_FLOAT: Final[TypeEngine[float]] = Double().with_variant(REAL(), "sqlite")


def _number(name: str, *constraints: Any, nullable: bool = False) -> Column[int]:
    return Column(name, _INT, *constraints, nullable=nullable, autoincrement=False)


def _real(name: str) -> Column[float]:
    return Column(name, _FLOAT, nullable=False)


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable)


def _flag(name: str) -> tuple[Column[int], CheckConstraint]:
    return _number(name), CheckConstraint(f"{name} IN (0, 1)")


def _table(name: str, *items: Any) -> Table:
    return Table(name, METADATA, *items, sqlite_strict=True)


schema = _table("alembic_version", _text("version_num"), PrimaryKeyConstraint("version_num"))

market = _table(
    "market",
    _number("id"),
    _text("settings"),  # canonical JSON
    _text("digest"),  # SHA-256 of it: the head before round 0
    _real("at"),
    PrimaryKeyConstraint("id"),
    CheckConstraint("id = 0"),
)

institutions = _table(
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

rounds = _table(
    "rounds",
    _number("number"),
    _real("deadline_s"),
    _number("quorum"),
    PrimaryKeyConstraint("number"),
)

asked = _table(
    "asked",
    _number("round", ForeignKey("rounds.number")),
    _number("institution", ForeignKey("institutions.id")),
    PrimaryKeyConstraint("round", "institution"),
)

transitions = _table(
    "transitions",
    _number("round", ForeignKey("rounds.number")),
    _text("state"),
    _text("detail", nullable=True),
    _real("at"),
    PrimaryKeyConstraint("round", "state"),
    CheckConstraint("state IN ('OPEN', 'COLLECTING', 'SETTLED', 'DELIVERED', 'ABANDONED')"),
)

reports = _table(
    "reports",
    _number("round"),
    _number("institution"),
    _number("samples"),
    _real("cost"),
    _real("eagerness"),
    _real("budget"),
    _text("model_digest"),
    *_flag("leaving"),
    _text("metrics"),  # canonical JSON
    _real("at"),
    PrimaryKeyConstraint("round", "institution"),
    ForeignKeyConstraint(["round", "institution"], ["asked.round", "asked.institution"]),
)
Index("reports_institution", reports.c.institution, reports.c.round)  # for its last report

refusals = _table(
    "refusals",
    _number("round"),
    _number("institution"),
    _number("attempt"),
    _text("reason"),
    _real("at"),
    PrimaryKeyConstraint("round", "institution", "attempt"),
    ForeignKeyConstraint(["round", "institution"], ["asked.round", "asked.institution"]),
)

settlements = _table(
    "settlements",
    _number("round", ForeignKey("rounds.number")),
    _text("rules"),  # canonical JSON
    Column("distances", LargeBinary, nullable=False),  # (m, m) little-endian float64, one NaN
    _number("fallbacks"),
    PrimaryKeyConstraint("round"),
)

outcomes = _table(
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

# A transfer is also the edge of the graph: an import that costs nothing is a row of amount 0. A
# correction pays a transfer back (payer and payee swapped) and enters the chain with its own round.
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
# The same buyer cannot pay the same seller twice in a round. By `entries_round` a round is sealed
# and verified, whatever its rows' kind; the other two hold all of what a statement and a balance
# are made of.
_once = entries.c.kind == "transfer"
Index(
    "entries_once",
    entries.c.round,
    entries.c.payer,
    entries.c.payee,
    unique=True,
    sqlite_where=_once,
    postgresql_where=_once,
)
Index("entries_round", entries.c.round)
Index(
    "entries_payer",
    entries.c.payer,
    entries.c.round,
    entries.c.payee,
    entries.c.amount_micro,
)
Index(
    "entries_payee",
    entries.c.payee,
    entries.c.round,
    entries.c.payer,
    entries.c.amount_micro,
)

chain = _table(
    "chain",
    _number("round", ForeignKey("rounds.number")),
    _text("previous"),
    _text("digests"),  # canonical JSON: table -> SHA-256 of its rows of this round
    _text("head"),
    PrimaryKeyConstraint("round"),
)

# What institutions think of their last delivery, and what happened to the server. Nothing is
# settled by either, and neither is in the chain.
acknowledgements = _table(
    "acknowledgements",
    _number("id"),
    _number(
        "round"
    ),  # of the message that was answered: no round has that number if it was the last
    _number("institution", ForeignKey("institutions.id")),
    _text("metrics"),  # canonical JSON
    _real("at"),
    PrimaryKeyConstraint("id"),
)

events = _table(
    "events",
    _number("id"),
    _text("kind"),
    _text("text"),
    _real("at"),
    PrimaryKeyConstraint("id"),
)
Index("events_kind", events.c.kind, events.c.at)  # for counts, and the last of a kind

# Who may take part: an institution's last row counts; without one, it may. Not in the chain.
admissions = _table(
    "admissions",
    _number("id"),
    _number("institution", ForeignKey("institutions.id")),
    *_flag("admitted"),
    _text("reason"),
    _real("at"),
    PrimaryKeyConstraint("id"),
)

APPEND_ONLY: Final = tuple(table for table in METADATA.sorted_tables if table is not schema)
"""Tables that triggers guard. The schema's version is the one row that a migration changes."""
