"""Migrations of the ledger's tables, run by Alembic from `schema.upgrade`."""
