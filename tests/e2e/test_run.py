"""`ipfl run` keeps a market going over the death of its processes, on real processes."""

import json
import os
import signal

import psutil
import pytest
from support.real_market import real_market

from ipfl_flower.cli.demo import DemoOptions
from ipfl_flower.ledger import Ledger, State

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

KILLED_IN_ROUND = 2


def state_of(folder, name):
    file = folder / "institutions" / name / "state" / "state.json"
    return json.loads(file.read_text()) if file.exists() else {"commits": 0, "trained": None}


def has_trained(folder, name, number):
    trained = state_of(folder, name)["trained"]
    return trained is not None and trained["round"] == number


def kill_supernode(market, name):
    """Kill a SuperNode and all that it started, as when its container is killed."""
    (node,) = [
        process
        for process in market.processes("flower-supernode")
        if any(part.endswith(f"/keys/{name}") for part in process.cmdline())
    ]
    for process in [node, *node.children(recursive=True)]:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    psutil.wait_procs([node], 10)


def test_a_market_goes_on_when_its_server_app_and_a_supernode_are_killed(tmp_path):
    with real_market(DemoOptions(rounds=4, institutions=3, groups=1), tmp_path) as market:
        market.wait_until(lambda: market.settled() >= 1)
        for process in market.processes("flwr-serverapp"):
            os.kill(process.pid, signal.SIGKILL)
        market.wait_until(lambda: has_trained(tmp_path, "birch", KILLED_IN_ROUND))
        before = state_of(tmp_path, "birch")
        kill_supernode(market, "birch")
        assert market.run.wait(400) == 0, market.printed
    with Ledger.open(market.ledger_file, create=False) as ledger:
        assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 4
        # It came back as the same institution, and in the round in which it was killed.
        assert [item.participants for item in ledger.rounds()] == [3, 3, 3, 3]
        assert len(ledger.institutions()) == 3
        assert ledger.verify() == []
        assert [event.kind for event in ledger.events()].count("resumed") == 1
        # What it had trained when it was killed is what counts: it was not trained again.
        birch = next(item.id for item in ledger.institutions() if item.name == "birch")
        (report,) = (r for r in ledger.reports(KILLED_IN_ROUND) if r.institution == birch)
        assert report.metrics == before["metrics"]
    assert "resuming" in market.printed
