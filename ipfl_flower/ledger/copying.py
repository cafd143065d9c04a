"""Many rows at once: into a table, and from one ledger into another."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Connection, Table, cast, func, select

from ipfl_flower.ledger import tables as t

_BATCH_ROWS = 2_000


def insert_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that have a value for every column."""
    if not rows:  # an empty list would insert a row of defaults
        return
    if connection.dialect.name != "postgresql":
        connection.execute(table.insert(), rows)
        return
    # One array a column and one statement, where the driver would send one for each row.
    columns = [
        func.unnest(cast([row[column.name] for row in rows], ARRAY(column.type)))
        for column in table.columns
    ]
    connection.execute(table.insert().from_select(table.columns.keys(), select(*columns)))


def copy_rows(source: Connection, target: Connection) -> None:
    """Copy every row that `source` sees into the empty tables of `target`, in order of their keys.

    The order keeps foreign keys: a table's parents come first, and a correction after what it
    reverses.
    """
    for table in t.APPEND_ONLY:
        query = select(table).order_by(*table.primary_key.columns)
        rows = source.execution_options(yield_per=_BATCH_ROWS).execute(query).mappings()
        for batch in rows.partitions():
            insert_rows(target, table, [dict(row) for row in batch])
