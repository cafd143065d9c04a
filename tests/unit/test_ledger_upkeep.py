"""Backup, restore and export: the copy is the ledger, whole, of one moment."""

import csv
import json
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.ledgers import play
from typer.testing import CliRunner

from ipfl_flower.cli.main import cli
from ipfl_flower.ledger import Ledger, LedgerError, restore, tables

WRITER = """
import sys
from ipfl_flower.ledger import Ledger
with Ledger.open(sys.argv[1], create=False, serve=True) as ledger:
    for i in range(100_000):
        ledger.enrol(f"institution {i}", i.to_bytes(4, "big"))
        print(i, flush=True)
"""


@pytest.fixture
def played(place):
    """Give the address of a small market's ledger."""
    with Ledger.open(place) as ledger:
        play(ledger)
        ledger.acknowledge(2, 0, {"loss": 0.1})
        ledger.log_event("note", 'it said "öh, \n=1"')
        ledger.expel("beta", "sold noise")
    return place


def contents(where):
    """Read every row of a ledger that verifies."""
    with Ledger.open(where, create=False) as ledger:
        assert ledger.verify() == []
        with ledger._read() as connection:
            return {
                table.name: sorted(map(repr, connection.execute(table.select()).all()))
                for table in tables.METADATA.sorted_tables
            }


def test_a_backup_is_the_ledger_in_a_private_file(played, tmp_path):
    with Ledger.open(played, create=False) as ledger:
        ledger.backup(tmp_path / "copy.db")
        head = ledger.head()
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert contents(tmp_path / "copy.db") == contents(played)
    with Ledger.open(tmp_path / "copy.db", create=False) as copy:
        assert copy.head() == head
    left = [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert left == []


def test_a_backup_of_a_ledger_being_written_is_of_one_moment(place, tmp_path):
    with Ledger.open(place) as ledger:
        ledger.begin({"a": 1})
    command = [sys.executable, "-c", WRITER, place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        with Ledger.open(place, create=False) as ledger:
            for name in ("first", "second"):
                written = int(writer.stdout.readline())
                ledger.backup(tmp_path / name)
                with Ledger.open(tmp_path / name, create=False) as copy:
                    assert copy.verify() == []
                    names = [item.name for item in copy.institutions()]
                assert len(names) > written
                assert names == [f"institution {i}" for i in range(len(names))]
        writer.kill()


def test_a_backup_overwrites_nothing_and_names_what_is_wrong(played, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with Ledger.open(played, create=False) as ledger:
        with pytest.raises(LedgerError, match=r"mine\.txt exists already: give a name that is"):
            ledger.backup(tmp_path / "mine.txt")
        with pytest.raises(LedgerError, match=r"cannot write .*copy \(No such file or directory\)"):
            ledger.backup(tmp_path / "none/copy")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(LedgerError, match="is closed: open it again"):
        ledger.backup(tmp_path / "late")


def test_the_commands_back_up_and_restore_and_verify_both(played, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli, ["ledger", *map(str, arguments)])

    with Ledger.open(played, create=False) as ledger:
        verified = f"verified: 4 rounds, head {ledger.head()}\n"
    done = run("backup", played, tmp_path / "copy.db")
    assert done.output == f"backed up to {tmp_path}/copy.db\n{verified}"
    done = run("restore", tmp_path / "copy.db", tmp_path / "back.db")
    assert done.output == f"restored to {tmp_path}/back.db\n{verified}"
    assert run("verify", played).output == verified
    assert contents(tmp_path / "back.db") == contents(played)


def test_a_ledger_that_has_not_begun_can_be_backed_up_and_verified(place, tmp_path):
    Ledger.open(place).close()
    done = CliRunner().invoke(cli, ["ledger", "backup", place, str(tmp_path / "copy.db")])
    assert "verified: 0 rounds, head none yet: the market has not begun" in done.output


def test_a_ledger_moves_from_either_database_to_either(played, postgres, tmp_path):
    url = postgres.url(postgres.new_database())
    for target in (url, tmp_path / "other.db"):
        restore(played, target)
        assert contents(target) == contents(played)
    with Ledger.open(url, serve=True) as ledger:  # the market goes on
        ledger.deliver(2)
        assert ledger.verify() == []


def test_a_restore_overwrites_nothing(played, postgres, tmp_path):
    Ledger.open(tmp_path / "taken.db").close()
    taken = postgres.url(postgres.new_database())
    Ledger.open(taken).close()
    theirs = postgres.new_database()
    postgres.execute("CREATE TABLE theirs (id int)", theirs)
    for target, words in (
        (tmp_path / "taken.db", "exists already: give a name that is free"),
        (tmp_path / "none/x.db", "cannot write .*x.db .No such file"),
        (taken, "it is not empty: give an empty database"),
        (postgres.url(theirs), "it is another program's database"),
    ):
        with pytest.raises(LedgerError, match=words):
            restore(played, target)


def test_what_does_not_verify_is_not_restored(tmp_path, postgres):
    with Ledger.open(tmp_path / "bad.db") as ledger:
        play(ledger)
    with closing(sqlite3.connect(tmp_path / "bad.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER entries_no_update")
        raw.execute("UPDATE entries SET amount_micro = amount_micro + 1")
    empty = postgres.new_database()
    for target in (tmp_path / "new.db", postgres.url(empty)):
        with pytest.raises(LedgerError, match=r"does not verify: .*, and \d+ more: nothing done"):
            restore(tmp_path / "bad.db", target)
    assert not (tmp_path / "new.db").exists()
    assert postgres.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", empty) == []
    done = CliRunner().invoke(cli, ["ledger", "verify", str(tmp_path / "bad.db")])
    assert done.exit_code == 1
    assert "problems found" in done.output


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_has_every_row_of_every_table_exactly(played, tmp_path, form):
    folder = tmp_path / "export"
    done = CliRunner().invoke(cli, ["ledger", "export", played, str(folder), "--format", form])
    assert done.output == f"exported 14 tables to {folder}\n"
    assert sorted(f.name for f in folder.iterdir()) == sorted(
        f"{table.name}.{form}" for table in tables.APPEND_ONLY
    )
    with Ledger.open(played, create=False) as ledger, ledger._read() as connection:
        for table in tables.APPEND_ONLY:
            rows = connection.execute(table.select().order_by(*table.primary_key.columns)).all()
            assert read(folder / f"{table.name}.{form}", table, form) == [tuple(r) for r in rows]


def read(path, table, form):
    """Read an exported table back to the values that the ledger has."""

    def value(column, text):
        if text is None or (text == "" and column.nullable):
            return None
        kind = column.type.python_type
        return bytes.fromhex(text) if kind is bytes else kind(text)

    with Path(path).open(encoding="utf-8", newline="") as file:
        if form == "csv":
            header, *rows = csv.reader(file)
        else:
            objects = [json.loads(line) for line in file]
            header, rows = table.columns.keys(), [list(o.values()) for o in objects]
            assert all(list(o) == header for o in objects)
    assert header == table.columns.keys()
    return [tuple(map(value, table.columns, row)) for row in rows]


def test_odd_floats_are_valid_json_and_come_back(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        with ledger._write() as connection:
            ats = [float("inf"), 0.1 + 0.2, 1e-320, 5e300]
            rows = [{"id": i, "kind": "k", "text": "t", "at": at} for i, at in enumerate(ats)]
            connection.execute(tables.events.insert(), rows)
        ledger.export(tmp_path / "out", "jsonl")
    lines = (tmp_path / "out/events.jsonl").read_text().splitlines()
    assert lines[0] == '{"id":0,"kind":"k","text":"t","at":"inf"}'
    assert [float(json.loads(line)["at"]) for line in lines] == ats


def test_an_export_leaves_a_folder_with_something_in_it_alone(played, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.txt").touch()
    with Ledger.open(played, create=False) as ledger:
        with pytest.raises(LedgerError, match=r"cannot export to .*mine \(Directory not empty\)"):
            ledger.export(folder)
        with pytest.raises(LedgerError, match="No such file or directory"):
            ledger.export(tmp_path / "none/export")
        (folder / "mine.txt").unlink()
        ledger.export(folder)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
