"""Append-only tables: the triggers that refuse to change, delete or replace a row.

A migration that changes a guarded table's key creates its guards again.
"""

from typing import Final

from sqlalchemy import Connection, Table, UniqueConstraint

REFUSAL: Final = "the ledger is append-only: a row of {table} cannot be {done}"


def create_guards(connection: Connection, table: Table) -> None:
    """Make `table` append-only in the connection's database."""
    if connection.dialect.name == "sqlite":
        statements = list(sqlite_triggers(table).values())
    else:
        statements = [postgresql_function(table), *postgresql_triggers(table).values()]
        statements += [
            f"ALTER TABLE {table.name} ENABLE ALWAYS TRIGGER {name}"
            for name in postgresql_triggers(table)
        ]
    for statement in statements:
        connection.exec_driver_sql(statement)


def sqlite_triggers(table: Table) -> dict[str, str]:
    """Build the triggers that make `table` append-only on SQLite.

    Parameters
    ----------
    table : Table
        One of `tables.APPEND_ONLY`.

    Returns
    -------
    dict of str to str
        Trigger name to its CREATE statement. The one on INSERT is there because INSERT OR REPLACE
        deletes the old row without waking a DELETE trigger.
    """
    name = table.name
    same = " OR ".join(_same_key(table))
    taken = f"EXISTS (SELECT 1 FROM {name} WHERE {same})"  # noqa: S608  # names are our own
    events = {
        "update": ("BEFORE UPDATE", "changed"),
        "delete": ("BEFORE DELETE", "deleted"),
        "replace": ("BEFORE INSERT", "replaced"),
    }
    return {
        f"{name}_no_{verb}": (
            f"CREATE TRIGGER {name}_no_{verb} {when} ON {name}"
            + (f" WHEN {taken}" if verb == "replace" else "")
            + f" BEGIN SELECT RAISE(ABORT, '{REFUSAL.format(table=name, done=done)}'); END"
        )
        for verb, (when, done) in events.items()
    }


def postgresql_triggers(table: Table) -> dict[str, str]:
    """Build the triggers that make `table` append-only on PostgreSQL.

    Returns
    -------
    dict of str to str
        Trigger name to its CREATE statement. They are enabled ALWAYS: in a session that plays
        replica, too. ON CONFLICT DO UPDATE wakes the one on UPDATE.
    """
    name = table.name
    events = {
        "update": "BEFORE UPDATE ON {} FOR EACH ROW",
        "delete": "BEFORE DELETE ON {} FOR EACH ROW",
        "truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
    }
    return {
        f"{name}_no_{verb}": (
            f"CREATE TRIGGER {name}_no_{verb} {when.format(name)}"
            f" EXECUTE FUNCTION {name}_append_only()"
        )
        for verb, when in events.items()
    }


def postgresql_function(table: Table) -> str:
    """Build the function that the triggers of `table` call, as a CREATE statement."""
    return (
        f"CREATE FUNCTION {table.name}_append_only() RETURNS trigger LANGUAGE plpgsql"
        f" AS $${postgresql_body(table)}$$"
    )


def postgresql_body(table: Table) -> str:
    """Spell the body of that function, as the database keeps it."""
    # USING MESSAGE, as RAISE's format string would need the driver's % escaped.
    refusal = REFUSAL.format(table=table.name, done="")
    return (
        f"BEGIN RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = '{refusal}'"
        " || CASE TG_OP WHEN 'UPDATE' THEN 'changed' ELSE 'deleted' END; END"
    )


def _same_key(table: Table) -> list[str]:
    """List the conditions on which a stored row would have to go for the NEW one."""
    unique = [c.columns.keys() for c in table.constraints if isinstance(c, UniqueConstraint)]
    keys = [table.primary_key.columns.keys(), *sorted(unique)]
    conditions = [" AND ".join(f"{column} = NEW.{column}" for column in key) for key in keys]
    if table.name == "entries":  # its partial unique index
        once = " AND ".join(f"{column} = NEW.{column}" for column in ("round", "payer", "payee"))
        conditions.append(f"{once} AND kind = NEW.kind AND kind = 'transfer'")
    return conditions
