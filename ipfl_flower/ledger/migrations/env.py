"""Alembic's entry: it migrates in the connection and transaction that `schema.upgrade` gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
