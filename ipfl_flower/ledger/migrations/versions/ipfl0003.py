"""Indices: a round is sealed, and an account or an event found, without reading all of them."""

from alembic import op

revision = "ipfl0003"
down_revision = "ipfl0002"


def upgrade() -> None:
    """Create the indices; those of payer and payee instead of narrower ones."""
    op.create_index("reports_institution", "reports", ["institution", "round"])
    op.create_index("events_kind", "events", ["kind", "at"])
    op.create_index("entries_round", "entries", ["round"])
    for role, other in (("payer", "payee"), ("payee", "payer")):
        op.drop_index(f"entries_{role}", "entries")
        op.create_index(f"entries_{role}", "entries", [role, "round", other, "amount_micro"])
