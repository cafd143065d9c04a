"""A ledger file changed behind the ledger's back, as whoever owns the disk can."""

import sqlite3
from contextlib import closing, contextmanager


@contextmanager
def attacker(path, *, restore_triggers=True):
    """Open the file with every guard taken down, and put the triggers back afterwards."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        triggers = raw.execute(query).fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA ignore_check_constraints = ON")
        yield raw
        if restore_triggers:
            for _, statement in triggers:
                raw.execute(statement)
