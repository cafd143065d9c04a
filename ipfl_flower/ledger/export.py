"""A ledger as text: one file a table, CSV or JSON Lines, for spreadsheets and auditors' tools."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any, Final, Literal, TypeAlias

from sqlalchemy import Connection, select

from ipfl_flower.ledger import tables as t
from ipfl_flower.ledger.records import LedgerError

_BATCH_ROWS: Final = 2_000

_Writer: TypeAlias = Callable[[IO[str], Sequence[str], Iterable[Sequence[Any]]], None]


def write_tables(connection: Connection, folder: Path, form: Literal["csv", "jsonl"]) -> list[str]:
    """Write all tables; see `Ledger.export`. The folder appears whole or not at all."""
    write = _WRITERS[form]
    names = []
    try:
        part = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for table in t.APPEND_ONLY:
                query = select(table).order_by(*table.primary_key.columns)
                rows = connection.execution_options(yield_per=_BATCH_ROWS).execute(query)
                name = f"{table.name}.{form}"
                with (part / name).open("w", encoding="utf-8", newline="") as file:
                    write(file, table.columns.keys(), (tuple(map(_plain, row)) for row in rows))
                    file.flush()
                    os.fsync(file.fileno())
                names.append(name)
            part.replace(folder)  # takes the place of an empty folder, too
        finally:
            shutil.rmtree(part, ignore_errors=True)  # by now it has its name, or failed
    except OSError as error:
        raise LedgerError(
            f"cannot export to {folder} ({error.strerror}): give a new folder"
        ) from error
    return names


def _plain(value: Any) -> Any:
    """Spell what JSON has no value for: bytes, and floats that are no numbers or infinite."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not isfinite(value):
        return repr(value)
    return value


def _write_csv(file: IO[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def _write_jsonl(file: IO[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    for row in rows:
        value = dict(zip(columns, row, strict=True))
        file.write(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")


_WRITERS: Final[dict[str, _Writer]] = {"csv": _write_csv, "jsonl": _write_jsonl}
