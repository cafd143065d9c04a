"""Rows from one ledger into another, table by table, as they are."""

from sqlalchemy import Connection, select

from ipfl_flower.ledger import tables as t

_BATCH_ROWS = 2_000


def copy_rows(source: Connection, target: Connection) -> None:
    """Copy every row that `source` sees into the empty tables of `target`, in order of their keys.

    The order keeps foreign keys: a table's parents come first, and a correction after what it
    reverses.
    """
    for table in t.APPEND_ONLY:
        query = select(table).order_by(*table.primary_key.columns)
        rows = source.execution_options(yield_per=_BATCH_ROWS).execute(query).mappings()
        for batch in rows.partitions():
            target.execute(table.insert(), [dict(row) for row in batch])
