"""One server a ledger: the second is refused, until the first closes it or dies."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ipfl_flower.ledger import Ledger, LedgerError, upgrade
from ipfl_flower.ledger.database import this_process

SERVER = """
import sys
from ipfl_flower.ledger import Ledger
ledger = Ledger.open(sys.argv[1], serve=True)
print("serving", flush=True)
sys.stdin.read()
"""


def test_a_second_server_is_refused_and_readers_are_not(place):
    with Ledger.open(place, serve=True) as first:
        with pytest.raises(LedgerError, match=rf"process {os.getpid()} on .* serves it already"):
            Ledger.open(place, serve=True)
        with pytest.raises(LedgerError, match="serves it already"):
            upgrade(place)
        with Ledger.open(place, create=False) as reader:
            first.begin({"a": 1})
            assert reader.settings == {"a": 1}
    with Ledger.open(place, serve=True) as second:
        assert second.settings == {"a": 1}


def test_anyone_can_ask_who_serves(place):
    with Ledger.open(place) as reader:
        assert reader.server() is None
        with Ledger.open(place, serve=True) as server:
            assert reader.server() == server.server() == this_process()
        assert reader.server() is None
        with Ledger.open(place, serve=True):
            assert reader.server() == this_process()


def test_asking_does_not_keep_a_server_out(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as reader:
        over = threading.Event()

        def ask():
            while not over.is_set():
                reader.server()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            for _ in range(50):
                Ledger.open(tmp_path / "ledger.db", serve=True).close()
        finally:
            over.set()
            thread.join()


def test_a_killed_server_makes_room_for_the_next(place):
    command = [sys.executable, "-c", SERVER, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"serving\n"
        with pytest.raises(LedgerError, match=rf"process {server.pid} on .* serves it already"):
            Ledger.open(place, serve=True)
        server.send_signal(signal.SIGKILL)
        server.wait()
        while True:  # PostgreSQL notices by itself, at once but not in the same instant
            try:
                Ledger.open(place, serve=True).close()
                break
            except LedgerError as error:
                assert "serves it already" in str(error)  # noqa: PT017  # until it is let go


def test_another_name_of_the_file_is_the_same_ledger(tmp_path):
    Ledger.open(tmp_path / "ledger.db").close()
    (tmp_path / "other.db").symlink_to(tmp_path / "ledger.db")
    with (
        Ledger.open(tmp_path / "ledger.db", serve=True),
        pytest.raises(LedgerError, match=r"other\.db: process .* serves it already"),
    ):
        Ledger.open(tmp_path / "other.db", serve=True)


def test_a_lock_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "ledger.db.lock").mkdir()
    with pytest.raises(LedgerError, match=r"its lock .*ledger\.db\.lock cannot be opened \(Is a"):
        Ledger.open(tmp_path / "ledger.db", serve=True)
