"""`ipfl run` keeps a market going over the death of its server app, on real processes."""

import os
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.demo import (
    DemoOptions,
    market_settings,
    run_trainer_module,
    start_nodes,
    theta0_file,
    write_institutions,
)
from ipfl_flower.cli.fleet import Fleet, Node, environment
from ipfl_flower.cli.processes import ProcessGroup
from ipfl_flower.ledger import Ledger, State

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def wait_until(condition, process, deadline_s=240.0):
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def server_apps(folder):
    """Return the processes of server apps of the fleet in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if "flwr-serverapp" in " ".join(process.cmdline()) and str(folder) in str(
                process.environ().get("FLWR_HOME")
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def settled_rounds(file):
    if not file.exists():
        return 0
    with Ledger.open(file, create=False) as ledger:
        return sum(item.state in (State.SETTLED, State.DELIVERED) for item in ledger.rounds())


def test_a_market_goes_on_when_its_server_app_is_killed(tmp_path):
    options = DemoOptions(rounds=3, institutions=3, groups=1)
    env = environment(tmp_path / "flower")
    with ProcessGroup(tmp_path / "logs", env) as group:
        files = write_institutions(options, tmp_path)
        fleet = Fleet(tmp_path, group)
        run_trainer_module(
            group, "initial", "--task", "digits", "--seed", 1, "--out", theta0_file(tmp_path)
        )
        fleet.start_superlink()
        start_nodes(fleet, [Node(name, file) for name, file in files.items()], group)
        market = tmp_path / "market.toml"
        market.write_text(to_toml(market_settings(options, tmp_path)))
        with (tmp_path / "printed").open("w") as printed:
            run = subprocess.Popen(
                [IPFL, "run", market], env=env, stdout=printed, stderr=subprocess.STDOUT
            )
            try:
                wait_until(lambda: settled_rounds(tmp_path / "ledger.db") >= 1, run)
                for process in server_apps(tmp_path):
                    os.kill(process.pid, signal.SIGKILL)
                assert run.wait(300) == 0, (tmp_path / "printed").read_text()
            finally:
                run.terminate()
                run.wait()
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 3
        assert [item.participants for item in ledger.rounds()] == [3, 3, 3]
        assert ledger.verify() == []
        assert [event.kind for event in ledger.events()].count("resumed") == 1
    assert "resuming" in (tmp_path / "printed").read_text()
