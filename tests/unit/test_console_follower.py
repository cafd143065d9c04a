"""The console keeps up with its ledger: what is new, what is verified, what takes its place."""

import sqlite3
import time

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest
from support import console_market as cm

from ipfl_flower.console import follower as follower_module
from ipfl_flower.console.access import Gate
from ipfl_flower.console.app import make_app
from ipfl_flower.console.desk import Desk
from ipfl_flower.console.follower import Follower
from ipfl_flower.console.metrics import market_registry
from ipfl_flower.ledger import Ledger, LedgerError


def market_registry_of(follower):
    """Return what the console shows to Prometheus."""
    return Desk(Gate(), follower).registry


def wait_for(condition, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def test_it_follows_the_ledger_and_verifies_it(place):
    with Ledger.open(place) as writer, Ledger.open(place, create=False) as reader:
        cm.play(writer, rounds=1)
        follower = Follower(reader, place)
        follower.start()
        try:
            before = follower.book
            cm.settle(writer, cm.settlement(1))
            wait_for(lambda: follower.book.settled == [0, 1], "round 1")
            assert follower.book is not before
            wait_for(lambda: follower.verification.state == "verified", "the verification")
        finally:
            follower.stop()


def test_a_ledger_that_was_tampered_with_is_said_to_be_broken(tmp_path):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger, rounds=1)
    with sqlite3.connect(file) as raw:
        triggers = raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 0")
    raw.close()
    with Ledger.open(file, create=False) as ledger:
        follower = Follower(ledger, str(file))
        follower.start()
        try:
            wait_for(lambda: follower.verification.state == "broken", "the verification")
        finally:
            follower.stop()
    assert any("entries" in problem for problem in follower.verification.problems)
    said = generate_latest(market_registry_of(follower)).decode()
    assert "\nipfl_ledger_verified 0.0\n" in said
    assert '\nipfl_ledger_problems{check="chain_is_unbroken"} 1.0\n' in said


def test_following_goes_on_after_whatever_error(place, monkeypatch):
    def unreadable(*_):
        raise IndexError("a row names no institution")

    monkeypatch.setattr(follower_module, "LOOK_EVERY_S", 0.01)
    with Ledger.open(place) as writer, Ledger.open(place, create=False) as reader:
        cm.play(writer, rounds=1)
        follower = Follower(reader, place, verify=False)
        follower.start()
        try:
            with monkeypatch.context() as broken:
                broken.setattr(follower_module, "read_book", unreadable)
                wait_for(lambda: follower.failure is not None, "the failure")
                assert follower.failure == "a row names no institution"
            wait_for(lambda: follower.failure is None, "the recovery")
        finally:
            follower.stop()


def test_a_verification_that_does_not_end_says_nothing(tmp_path, monkeypatch):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger, rounds=1)
        follower = Follower(ledger, str(file))
        asked = []

        def checked():
            asked.append(1)
            if len(asked) == 1:
                return []
            raise OSError("no process to be had")

        monkeypatch.setattr(follower, "_problems", checked)
        monkeypatch.setattr(follower_module, "LOOK_EVERY_S", 0.01)
        monkeypatch.setattr(follower_module, "VERIFY_EVERY_S", 0.01)
        follower.start()
        try:
            wait_for(lambda: follower.verification.state == "verified", "the verification")
            cm.settle(ledger, cm.settlement(1))
            wait_for(lambda: len(asked) > 2, "another try")
            assert follower.verification.state == "verified"
        finally:
            follower.stop()


def test_prometheus_is_told_what_the_last_verification_found(tmp_path, monkeypatch):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger, rounds=1)
    release = False

    def problems():
        wait_for(lambda: release, "the verification may end")
        return []

    with Ledger.open(file, create=False) as ledger:
        follower = Follower(ledger, str(file))
        monkeypatch.setattr(follower, "_problems", problems)
        app = make_app(Gate(), follower)
        with TestClient(app, base_url="http://localhost") as client:
            assert "\nipfl_ledger_verified " not in client.get("/metrics").text
            release = True
            wait_for(lambda: follower.verified is not None, "the verification")
            said = client.get("/metrics").text
    assert "\nipfl_ledger_verified 1.0\n" in said
    assert "\nipfl_ledger_verified_timestamp_seconds " in said
    assert "\nipfl_ledger_verification_duration_seconds " in said


def test_a_ledger_that_stays_as_it_is_is_verified_again_for_its_rows_may_not(tmp_path, monkeypatch):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger, rounds=1)
        follower, asked = Follower(ledger, str(file)), []
        monkeypatch.setattr(follower, "_problems", lambda: asked.append(1) or [])
        monkeypatch.setattr(follower_module, "LOOK_EVERY_S", 0.01)
        monkeypatch.setattr(follower_module, "VERIFY_EVERY_S", 0.01)
        monkeypatch.setattr(follower_module, "VERIFY_AGAIN_S", 0.05)
        follower.start()
        try:
            wait_for(lambda: len(asked) > 2, "two more verifications")
        finally:
            follower.stop()


# --- another ledger in the place of the one that is shown -----------------------------------------


def put_in_place(file, source):
    """Do what `mv SOURCE FILE` does, without what SQLite keeps beside either."""
    for beside in ("-wal", "-shm"):
        file.with_name(file.name + beside).unlink(missing_ok=True)
    source.replace(file)


@pytest.fixture
def two(tmp_path):
    """Give a ledger's file, and another of a market that went otherwise."""
    for name, rounds in (("ledger.db", 4), ("other.db", 3)):
        with Ledger.open(tmp_path / name) as ledger:
            cm.play(ledger, rounds)
            ledger.log_event("note", f"of {name}")
    with Ledger.open(tmp_path / "other.db") as ledger:
        ledger.abandon(3, "it went otherwise")
    return tmp_path / "ledger.db", tmp_path / "other.db"


def test_a_ledger_put_in_the_place_of_another_is_read_from_its_beginning(two, monkeypatch):
    file, other = two
    with Ledger.open(other, create=False) as ledger:
        head, balances, scraped = ledger.head(), ledger.balances(), scrape(market_registry(ledger))
    monkeypatch.setattr(follower_module, "LOOK_EVERY_S", 0.01)
    with Ledger.open(file, create=False) as ledger:
        registry = market_registry(ledger)
        assert scrape(registry) != scraped
        follower = Follower(ledger, str(file), verify=False)
        follower.start()
        try:
            assert follower.book.head == (before := ledger.head()) != head
            assert follower.book.events[-1].text == "of ledger.db"
            put_in_place(file, other)
            wait_for(lambda: follower.book.head == head, "the other ledger")
        finally:
            follower.stop()
        book = follower.book
        assert [event.text for event in book.events] == ["yew: sold noise", "of other.db"]
        assert len(book.pages) == 4
        assert {n: book.pages[-1].balance(i) for n, i in book.ids.items()} == balances
        assert scrape(registry) == scraped
        assert before not in [page.history.head for page in book.pages]


def scrape(registry):
    return sorted(generate_latest(registry).decode().splitlines())


def test_a_ledger_whose_file_is_gone_is_missed_and_not_made_anew(two):
    file, _ = two
    with Ledger.open(file, create=False) as ledger:
        file.rename(file.with_name("elsewhere.db"))
        with pytest.raises(LedgerError, match="the file is gone: put it back"):
            ledger.rounds()
        assert not file.exists()
        file.with_name("elsewhere.db").rename(file)
        assert len(ledger.rounds()) == 5


def test_a_server_writes_no_file_that_another_was_put_in_the_place_of(two):
    file, other = two
    with Ledger.open(file, serve=True) as ledger:
        put_in_place(file, other)
        with pytest.raises(LedgerError, match="another file was put in its place while this"):
            ledger.log_event("note", "for nobody")
    with Ledger.open(file, create=False) as ledger:
        assert ledger.events()[-1].text == "of other.db"
