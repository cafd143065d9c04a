"""`ipfl run` asked to stop: it leaves no run behind that goes on."""

import io
import os
import signal

import pytest
import typer
from rich.console import Console

from ipfl_flower.cli import run as run_module
from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.main import _interruptible
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.run import run_market
from ipfl_flower.ledger import Ledger

RUN = 7


class Flower:
    """A SuperLink that does as it is told; `act` is called by the name of what is asked of it."""

    def __init__(self, act=lambda what: None):
        self.asked, self.statuses, self.act = [], ["finished:stopped"], act

    def __call__(self, group, superlink):
        return self

    def bundle(self, app):
        return "0a4f"

    def submit(self, app, config):
        self.note("submit")
        return RUN

    def stop(self, run):
        assert run == RUN
        self.note("stop")

    def run_status(self, run):
        assert run == RUN
        self.note("status")
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def run_log(self, run):
        return ""

    def note(self, what):
        self.asked.append(what)
        self.act(what)


@pytest.fixture
def market(tmp_path):
    """Give a market.toml, whose ledger is made by the first admission."""
    file = tmp_path / "market.toml"
    settings = {
        "rounds": 2,
        "samples-max": 500,
        "ledger": str(tmp_path / "ledger.db"),
        "models-dir": str(tmp_path / "models"),
        "initial-model": str(tmp_path / "theta0.npz"),
    }
    file.write_text(to_toml(settings))
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.admit(ledger.enrol("alder", b"alder", samples_cap=500))
    return file


@pytest.fixture
def ask(market, monkeypatch):
    """Give what runs the market with a Flower, interrupted, and returns what was printed."""
    monkeypatch.setattr(run_module, "stage_app", lambda folder: folder)
    monkeypatch.setattr(run_module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(run_module, "STOP_DEADLINE_S", 5.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)

    def run(flower):
        monkeypatch.setattr(run_module, "FlowerCli", flower)
        out = io.StringIO()
        console = Console(file=out, width=200)
        with pytest.raises(typer.Exit) as ended, _interruptible():
            run_market(market, "market", console, resume=True, patience_s=0.0)
        assert ended.value.exit_code == 130
        return out.getvalue()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt_at(wanted):
    def act(what):
        if what == wanted:
            os.kill(os.getpid(), signal.SIGTERM)

    return act


def test_asked_to_stop_while_it_submits_it_stops_what_it_has_submitted(ask):
    flower = Flower(interrupt_at("submit"))
    printed = ask(flower)
    assert flower.asked == ["submit", "stop", "status"]
    assert "the market stands still" in printed


def test_the_market_stands_still_when_flower_says_so_too(ask):
    flower = Flower(interrupt_at("submit"))
    flower.statuses = ["running", "stopping", "finished:stopped"]
    printed = ask(flower)
    assert flower.asked == ["submit", "stop", "status", "status", "status"]
    assert "the market stands still" in printed


def test_a_run_that_flower_does_not_end_is_said(ask, monkeypatch):
    monkeypatch.setattr(run_module, "STOP_DEADLINE_S", 0.05)
    flower = Flower(interrupt_at("submit"))
    flower.statuses = ["running"]
    printed = ask(flower)
    assert "it has not ended after 0.05 s" in printed
    assert "stands still" not in printed


def test_a_submission_that_failed_while_it_was_asked_to_stop_is_said(ask):
    def act(what):
        os.kill(os.getpid(), signal.SIGTERM)
        raise LaunchError("the SuperLink is away")

    flower = Flower(act)
    assert "`flwr stop` ends it" in ask(flower)
    assert flower.asked == ["submit"]


def test_a_market_whose_samples_max_was_changed_since_is_not_submitted(market, monkeypatch):
    market.write_text(market.read_text().replace("500", "600"))
    flower = Flower()
    monkeypatch.setattr(run_module, "FlowerCli", flower)
    wanted = "samples-max is 600, and alder was admitted with 500.*set samples-max = 500, or begin"
    with pytest.raises(KitError, match=wanted):
        run_market(market, "market", Console(), resume=False, patience_s=0.0)
    assert flower.asked == []
