"""The ledger's file: opening, refusing, append-only rows, and readers beside the writer."""

import sqlite3
import stat
import subprocess
import sys

import pytest

from ipfl_flower.ledger import Ledger, LedgerError, sqlite, tables

READER = """
import sys
from ipfl_flower.ledger import Ledger
with Ledger.open(sys.argv[1], create=False) as ledger:
    print(len(ledger.institutions()), ledger.settings, ledger.verify())
"""


@pytest.fixture
def path(tmp_path):
    """Give the path of a ledger that has begun and is closed."""
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.begin({"a": 1})
        ledger.enrol("alpha", b"alpha")
    return tmp_path / "ledger.db"


def test_path_text_and_url_open_the_same_file(path):
    for where in (path, str(path), f"sqlite:///{path}"):
        with Ledger.open(where, create=False) as ledger:
            assert ledger.settings == {"a": 1}


def test_a_new_ledger_is_its_owners_and_durable(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Ledger.open(path) as ledger, ledger._write() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": sqlite.BUSY_TIMEOUT_MS,
    }
    with sqlite3.connect(path) as raw:
        strict = dict(raw.execute("SELECT name, strict FROM pragma_table_list"))
    raw.close()
    assert all(strict[name] for name in tables.METADATA.tables)


@pytest.mark.parametrize("create", [True, False])
def test_an_empty_file_is_no_ledger(tmp_path, create):
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(LedgerError, match=r"empty\.db: the file is empty: remove it, or check"):
        Ledger.open(path, create=create)


def test_a_new_ledger_appears_whole_and_alone(tmp_path, monkeypatch):
    seen = []
    link = sqlite.os.link
    path = tmp_path / "new.db"

    def race(made, name):
        """Another process gives its ledger that name first."""
        assert not path.exists()
        link(made, name)
        with Ledger.open(path, create=False) as other:
            other.begin({"first": True})
        seen.append(made)
        link(made, name)

    monkeypatch.setattr(sqlite.os, "link", race)
    with Ledger.open(path) as ledger:
        assert ledger.settings == {"first": True}
    assert len(seen) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["new.db"]


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(LedgerError, match=r"no ledger at .*x\.db: start a market first, or check"):
        Ledger.open(tmp_path / "x.db", create=False)
    assert not (tmp_path / "x.db").exists()
    with pytest.raises(LedgerError, match=r"no ledger at .*x\.db: create its folder"):
        Ledger.open(tmp_path / "none" / "x.db")
    with pytest.raises(LedgerError, match=r"Is a directory: check the path"):
        Ledger.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"Not a directory: check the path"):
        Ledger.open(tmp_path / "file" / "x.db")


def test_what_is_not_a_ledger_is_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are not the rows you are looking for\n" * 100)
    before = text.read_bytes()
    with pytest.raises(LedgerError, match=r"notes\.txt: it is not a SQLite database .*check the"):
        Ledger.open(text)
    assert text.read_bytes() == before

    other = tmp_path / "other.db"
    raw = sqlite3.connect(other)
    raw.execute("CREATE TABLE alembic_version (version_num TEXT)")
    raw.execute("INSERT INTO alembic_version VALUES ('8c2f')")
    raw.commit()
    raw.close()
    before = other.read_bytes()
    with pytest.raises(LedgerError, match=r"other\.db: it is another program's database"):
        Ledger.open(other)
    assert other.read_bytes() == before


def test_another_schema_version_is_refused(path):
    raw = sqlite3.connect(path)
    raw.execute("UPDATE alembic_version SET version_num = 'ipfl9999'")
    raw.commit()
    raw.close()
    with pytest.raises(LedgerError, match=r"its schema is ipfl9999, this program knows ipfl0003"):
        Ledger.open(path)


def test_a_damaged_file_is_named(path):
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(LedgerError, match=r"ledger\.db: the file is damaged .*restore a backup"):
        Ledger.open(path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "mysql://user:secret@host/db",
            r"^mysql://user:\*\*\*@host/db is no database for a ledger",
        ),
        ("postgresql+asyncpg://u:secret@host/db", r"asyncpg://u:\*\*\*@host/db is no database"),
        ("postgresql://u:secret@host", r"^postgresql://u:\*\*\*@host names no database: give a"),
        ("postgresql://u:sec@ret@host/db", r"write an @ that is part of the password as %40"),
        ("postgresql://u:secret@host:port/db", r"'postgresql://\*\*\*@host:port/db' is not a URL"),
        ("postgresql://u@host:port/db?password=secret", r"'postgresql://.*' is not a URL"),
        ("sqlite://", "is no database for a ledger: give a file, sqlite:///FILE, or postgresql"),
        ("sqlite:///:memory:", "is no database for a ledger"),
        ("://", "is not a URL"),
    ],
)
def test_other_urls_are_refused(url, words):
    with pytest.raises(LedgerError, match=words) as caught:
        Ledger.open(url)
    assert "sec" not in str(caught.value)


def test_a_closed_ledger_says_so(path):
    ledger = Ledger.open(path)
    ledger.close()
    with pytest.raises(LedgerError, match=r"ledger\.db is closed: open it again"):
        ledger.institutions()


# --- append-only ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [t.name for t in tables.APPEND_ONLY])
def test_rows_cannot_be_changed_deleted_or_replaced(path, table):
    raw = sqlite3.connect(path, isolation_level=None)
    triggers = raw.execute("SELECT name FROM sqlite_master WHERE tbl_name = ?", (table,)).fetchall()
    assert {f"{table}_no_{verb}" for verb in ("update", "delete", "replace")} <= {
        name for (name,) in triggers
    }
    columns = [column.name for column in tables.METADATA.tables[table].columns]
    raw.execute("PRAGMA ignore_check_constraints = ON")
    filler = {"BLOB": "x'00'", "TEXT": "'OPEN'"}
    values = [
        filler.get(kind, "0")
        for (kind,) in raw.execute(f"SELECT type FROM pragma_table_info('{table}')")
    ]
    if not raw.execute(f"SELECT 1 FROM {table}").fetchall():
        raw.execute(f"INSERT INTO {table} VALUES ({', '.join(values)})")
    same = f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"
    for statement, verb in (
        (f"UPDATE {table} SET {columns[-1]} = {columns[-1]}", "changed"),
        (f"DELETE FROM {table}", "deleted"),
        (same, "replaced"),
    ):
        with pytest.raises(sqlite3.IntegrityError, match=f"a row of {table} cannot be {verb}"):
            raw.execute(statement)
    raw.close()


def test_a_unique_name_cannot_be_replaced_under_another_id(path):
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="institutions cannot be replaced"):
        raw.execute("INSERT OR REPLACE INTO institutions VALUES (7, 'alpha', x'01', NULL, 0.0)")
    raw.close()


# --- several processes ----------------------------------------------------------------------------


def read_in_another_process(path):
    command = [sys.executable, "-c", READER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_another_process_reads_while_this_one_writes(path):
    with Ledger.open(path) as ledger:
        with ledger._write() as connection:
            row = {"id": 1, "name": "beta", "public_key": b"beta", "samples_cap": None, "at": 0.0}
            connection.execute(tables.institutions.insert(), row)
            assert read_in_another_process(path) == "1 {'a': 1} []"
        assert read_in_another_process(path) == "2 {'a': 1} []"


def test_a_reader_keeps_its_snapshot(path):
    with Ledger.open(path) as writer, Ledger.open(path, create=False) as reader:
        with reader._read() as snapshot:
            count = tables.institutions.select()
            assert len(snapshot.execute(count).all()) == 1
            writer.enrol("beta", b"beta")
            assert len(snapshot.execute(count).all()) == 1
        assert len(reader.institutions()) == 2


def test_a_second_writer_waits_and_then_says_who_is_in_the_way(path, monkeypatch):
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 1",))
    with Ledger.open(path) as first, Ledger.open(path, create=False) as second:
        with (
            first._write(),
            pytest.raises(LedgerError, match="another process has been writing to it"),
        ):
            second.enrol("beta", b"beta")
        assert second.enrol("beta", b"beta") == 1


# --- a disk that fails ----------------------------------------------------------------------------


def enrol_many(ledger):
    for i in range(1000):
        ledger.enrol(f"institution-{i}", bytes(1000) + str(i).encode())


@pytest.mark.parametrize(
    ("pragma", "words"),
    [
        ("max_page_count = 1", "the disk is full .*the transaction was not recorded"),
        ("query_only = ON", "it cannot be written .*check the permissions"),
    ],
)
def test_a_failed_write_is_explained_and_leaves_nothing(path, pragma, words):
    with Ledger.open(path) as ledger:
        with ledger._database.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        with pytest.raises(LedgerError, match=words):
            enrol_many(ledger)
        recorded = len(ledger.institutions())
    with Ledger.open(path) as ledger:
        assert len(ledger.institutions()) == recorded
        assert ledger.verify() == []


def test_any_other_database_error_names_the_file():
    error = sqlite3.OperationalError("something new")
    with (
        pytest.raises(LedgerError, match=r"^ledger /a/b\.db: something new$"),
        sqlite.explained("/a/b.db"),
    ):
        raise error
