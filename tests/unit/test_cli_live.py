"""What `ipfl run` takes for the beginning of its run."""

import io

import pytest
from rich.console import Console
from support.ledgers import play

from ipfl_flower.cli.live import Watch
from ipfl_flower.cli.processes import LaunchError, ProcessGroup
from ipfl_flower.ledger import Ledger


class Flower:
    def run_log(self, run):
        return "nothing yet"


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr("ipfl_flower.cli.live.BEGIN_DEADLINE_S", 1.0)
    ledger = str(tmp_path / "ledger.db")
    with ProcessGroup(tmp_path / "logs", {}) as group:
        yield Watch(ledger, group, Flower(), 1, Console(file=io.StringIO()))


def test_an_admission_is_not_taken_for_the_server_app(watch):
    with Ledger.open(watch.ledger) as ledger:
        ledger.log_event("started", "an earlier run")
        before = watch.events()
        ledger.admit(ledger.enrol("alder", b"alder"))
    with pytest.raises(LaunchError, match="did not begin within 1 s"):
        watch.follow(7, before)


def test_the_server_apps_own_word_is(watch):
    with Ledger.open(watch.ledger) as ledger:
        ledger.admit(ledger.enrol("alder", b"alder"))
        ledger.log_event("started", "Flower run 7")
        ledger.log_event("finished", "1 rounds")
    watch.follow(7, 0)


def test_each_settled_round_is_told_once(watch):
    with Ledger.open(watch.ledger) as ledger:
        ledger.log_event("started", "Flower run 7")
        play(ledger, rounds=3)  # of which the second is abandoned
        ledger.log_event("finished", "3 rounds")
    told = []
    watch.on_settled = told.append
    watch.follow(7, 0)
    watch.follow(7, 0)
    assert told == [0, 2]
