"""Who is admitted and who is expelled."""

from alembic import op
from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Integer,
    PrimaryKeyConstraint,
    Text,
)

from ipfl_flower.ledger.guards import create_guards

revision = "ipfl0002"
down_revision = "ipfl0001"


def upgrade() -> None:
    """Create and guard the table."""
    number = BigInteger().with_variant(Integer(), "sqlite")
    table = op.create_table(
        "admissions",
        Column("id", number, nullable=False, autoincrement=False),
        Column("institution", number, ForeignKey("institutions.id"), nullable=False),
        Column("admitted", number, nullable=False),
        Column("reason", Text, nullable=False),
        Column("at", Double().with_variant(REAL(), "sqlite"), nullable=False),
        PrimaryKeyConstraint("id"),
        CheckConstraint("admitted IN (0, 1)"),
        sqlite_strict=True,
    )
    create_guards(op.get_bind(), table)
