"""A ledger opened to be read and nothing else: on a read-only mount, with a server and without."""

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from support.ledgers import play

from ipfl_flower.ledger import Ledger, LedgerError, sqlite_reader
from ipfl_flower.ledger.sqlite_reader import SQLiteReader

READER = """
import json, sys
from ipfl_flower.ledger import Ledger
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    for _ in sys.stdin:
        found = [len(ledger.rounds()), len(ledger.events()), [str(p) for p in ledger.verify()]]
        print(json.dumps([*found, ledger.server()]), flush=True)
"""
# Serves the ledger, writes an event, and stays.
SERVER = """
import sys
from ipfl_flower.ledger import Ledger
with Ledger.open(sys.argv[1], serve=True) as ledger:
    ledger.log_event("started", "a server")
    print("serving", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    """Give the path of a ledger of three rounds that nobody has open."""
    folder = tmp_path / "market"
    folder.mkdir()
    with Ledger.open(folder / "ledger.db") as ledger:
        play(ledger)
    assert [file.name for file in folder.iterdir()] == ["ledger.db"]
    return folder / "ledger.db"


@contextmanager
def sealed(folder):
    """Give the words that start a program for which `folder` can't be written."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield []
        finally:
            folder.chmod(0o700)
        return
    there = shlex.quote(str(folder))
    script = f'mount --bind {there} {there} && mount -o remount,bind,ro {there} && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    yield words


@contextmanager
def program(words, code, path):
    command = [*words, sys.executable, "-c", code, str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def look(reader):
    reader.stdin.write("\n")
    reader.stdin.flush()
    return json.loads(reader.stdout.readline())


def test_it_is_read_from_a_read_only_mount_before_beside_and_after_a_server(path):
    with sealed(path.parent) as words, program(words, READER, path) as reader:
        rounds, events, problems, server = look(reader)
        assert (rounds, problems, server) == (4, [], None)
        with program([], SERVER, path) as child:
            assert child.stdout.readline() == "serving\n"
            found = look(reader)
            assert found[:3] == [rounds, events + 1, []]
            assert f"process {child.pid} " in found[3]
            child.send_signal(signal.SIGKILL)
            child.wait()
        # It left its -wal behind, which holds what it wrote last.
        assert path.with_name("ledger.db-wal").stat().st_size > 0
        assert look(reader) == [rounds, events + 1, [], None]
        with program([], SERVER, path) as child:
            assert child.stdout.readline() == "serving\n"
            child.communicate("")
            assert child.returncode == 0
        assert not path.with_name("ledger.db-wal").exists()
        assert look(reader) == [rounds, events + 2, [], None]


def test_a_program_on_a_read_only_mount_can_write_nothing(path):
    """The mount of these tests is one: else they'd show nothing."""
    with sealed(path.parent) as words, program(words, SERVER, path) as child:
        assert child.stdout.readline() == ""
        assert child.wait() != 0


def test_a_reader_leaves_nothing_behind_and_changes_nothing(path):
    before = path.read_bytes()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.verify() == []
        for write in (
            lambda: ledger.log_event("started", "no"),
            lambda: ledger.admit(0),
            lambda: ledger.begin({"a": 1}),
        ):
            with pytest.raises(LedgerError, match="it was opened to be read, and can't be written"):
                write()
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="opened to be read"):
        Ledger.open(path, read_only=True, serve=True)


def test_a_reader_does_not_make_a_ledger(tmp_path):
    with pytest.raises(LedgerError, match="start a market first"):
        Ledger.open(tmp_path / "ledger.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b.db", "50%25.db", "a?b#c.db"])
def test_a_file_may_be_called_anything(tmp_path, name):
    with Ledger.open(tmp_path / name) as ledger:
        ledger.begin({"a": 1})
    with Ledger.open(tmp_path / name, read_only=True) as ledger:
        assert ledger.settings == {"a": 1}


def test_what_is_no_database_is_named(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("these are not the rows you are looking for\n" * 100)
    with pytest.raises(LedgerError, match=r"notes\.txt: it is not a SQLite database"):
        Ledger.open(file, read_only=True)


class NoLocks:
    """A connection of SQLite's that can't make its -shm."""

    def execute(self, _):
        error = sqlite_reader.sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorname = "SQLITE_CANTOPEN"
        raise error

    def close(self):
        pass


def test_what_was_read_without_locks_while_a_server_began_is_not_used(path, monkeypatch):
    connect = sqlite_reader.sqlite3.connect
    with monkeypatch.context() as patched:
        patched.setattr(
            sqlite_reader.sqlite3,
            "connect",
            lambda where, **options: (
                connect(where, **options) if "immutable" in where else NoLocks()
            ),
        )
        reader = SQLiteReader(path)
        with reader.session(write=False):
            pass
        session = reader.session(write=False)
        session.__enter__()
    with Ledger.open(path) as server:
        server.log_event("started", "a server")
    with pytest.raises(LedgerError, match="a server began to write to it: read it again"):
        session.__exit__(None, None, None)
    reader.close()
