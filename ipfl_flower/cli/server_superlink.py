"""Flower's SuperLink, on a SQLite that forgets models quickly: ``flower-superlink``'s work.

``ipfl superlink`` and the demo start this program, with `flower-superlink`'s own arguments. Two
settings of its SQLite connections differ, given through SQLAlchemy's events:

* ``secure_delete`` is off. Debian's SQLite has it on, and Debian's Python and the official Python
  images use that: it overwrites whatever is deleted with zeros, which for a model that was
  delivered took 3.8 s for 500 MB on an idle machine, in one transaction, and takes 0.1–0.3 s
  without. The file is the operator's alone; freed pages in it are used again by the next models.
* ``busy_timeout`` is `PATIENCE_S` instead of Flower's 5 s: who finds the database locked waits,
  where it would be told HTTP 500, at which Flower's heartbeats end for good.
"""

from typing import Any

from flwr.superlink.cli import flower_superlink
from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

PATIENCE_S = 60
_SET = "ipfl-patience"


def forget_quickly(connection: Any, _record: Any) -> None:
    """Turn ``secure_delete`` off, on a connection that was opened.

    Parameters
    ----------
    connection : DBAPI connection
        Of any database; nothing happens unless it is SQLite's.
    """
    if _is_sqlite(connection):
        connection.execute("PRAGMA secure_delete = OFF").close()


def wait_longer(connection: Any, record: Any, _proxy: Any) -> None:
    """Raise ``busy_timeout`` once a connection is used, after Flower set its own as it opened."""
    if _is_sqlite(connection) and _SET not in record.info:
        connection.execute(f"PRAGMA busy_timeout = {PATIENCE_S * 1000}").close()
        record.info[_SET] = True


def _is_sqlite(connection: Any) -> bool:
    return type(connection).__module__.partition(".")[0] in ("sqlite3", "_sqlite3")


def prepare() -> None:
    """Have both set on every connection that this process opens from now on."""
    event.listen(Engine, "connect", forget_quickly)
    event.listen(Pool, "checkout", wait_longer)


def main() -> None:
    """Run the SuperLink until it is told to end."""
    prepare()
    flower_superlink()


if __name__ == "__main__":
    main()
