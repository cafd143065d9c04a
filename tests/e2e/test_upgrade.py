"""A market is upgraded part by part while it runs, as docs/operate.md says, on real processes."""

import os
import signal
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.door import IPFL, START_S, join, operator, wait_until

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.demo import (
    DemoOptions,
    market_settings,
    run_trainer_module,
    theta0_file,
    write_institutions,
)
from ipfl_flower.cli.processes import free_port, wait_for_port
from ipfl_flower.cli.receipts import audit_receipts
from ipfl_flower.ledger import Ledger, State
from ipfl_flower.trainer_api import TrainerClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OPTIONS = DemoOptions(rounds=50, institutions=3, groups=1)


class Upgrade:
    """Starts, ends and starts again the parts of one market, each as the version that is asked."""

    def __init__(self, market, sockets, folder):
        self.market, self.sockets, self.folder = market, sockets, folder
        self.institutions = write_institutions(OPTIONS, folder)
        self.versions = {version: stage_app(folder / version) for version in ("old", "new")}
        # Another comment in its client app is enough for another bundle.
        with (self.versions["new"] / "client_app" / "main.py").open("a") as app:
            app.write("# the new version\n")
        self.bundles = {version: self.bundle(version) for version in self.versions}

    def bundle(self, version):
        """Return what `ipfl bundle` says."""
        environment = {**os.environ, "PYTHONPATH": str(self.versions[version])}
        done = subprocess.run(
            [*IPFL, "bundle"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    @property
    def ledger_file(self):
        return self.folder / "ledger.db"

    def start(self, name, command, version):
        sources = f"PYTHONPATH={self.versions[version]}"
        self.market.group.start(name, ["env", sources, *command])

    def end(self, name, *codes):
        """End a part as its service manager does."""
        process = self.market.group._children[name]
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) in codes, self.said(name)

    def said(self, name):
        return self.market.group.log(name).read_text()

    def start_trainer(self, name, version):
        address = f"unix://{self.sockets / name}.sock"
        command = [*IPFL, "trainer", self.institutions[name], "--listen", address]
        self.start(f"trainer-{name}", command, version)

    def wait_for_trainer(self, name):
        with TrainerClient(f"unix://{self.sockets / name}.sock") as client:
            wait_until(lambda: client.describe(deadline_s=START_S), f"the trainer of {name}")

    def start_supernode(self, name, version):
        before = self.online(name)
        command = [
            *(*IPFL, "supernode", self.node_folder(name), "--port", str(free_port())),
            *("--trainer", f"unix://{self.sockets / name}.sock"),
        ]
        self.start(f"supernode-{name}", command, version)
        wait_until(lambda: self.online(name) > before, f"the SuperNode of {name}")

    def online(self, name):
        """Return how often a SuperNode was let in."""
        log = self.market.group.log(f"supernode-{name}")
        return log.read_text().count("SuperNode ID:") if log.exists() else 0

    def node_folder(self, name):
        return self.folder / "nodes" / name

    @contextmanager
    def run(self, version, *options, **settings):
        """Run `ipfl run` and give it, its market file being as the settings say."""
        file, printed = self.folder / "market.toml", self.folder / f"printed-{version}"
        file.write_text(to_toml({**market_settings(OPTIONS, self.folder), **settings}))
        environment = {
            **os.environ,
            "FLWR_HOME": str(self.market.folder / "flower"),
            "PYTHONPATH": str(self.versions[version]),
        }
        with printed.open("w") as output:
            command = [str(part) for part in (*IPFL, "run", file, *options)]
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield process, printed
        finally:
            process.terminate()
            process.wait(120)

    def settled(self):
        if not self.ledger_file.exists():
            return 0
        with Ledger.open(self.ledger_file, create=False) as ledger:
            return sum(item.state in (State.SETTLED, State.DELIVERED) for item in ledger.rounds())

    def wait_for_round(self, printed):
        """Wait until one round more is settled than before."""
        before = self.settled()
        try:
            wait_until(lambda: self.settled() > before, "the next round", 120.0)
        except AssertionError as error:
            raise AssertionError(printed.read_text()) from error


def balances_of_the_settlements(ledger):
    names = {item.id: item.name for item in ledger.institutions()}
    paid = Counter(dict.fromkeys(names.values(), 0))
    for item in ledger.rounds():
        settlement = ledger.settlement(item.number)
        for i, net in zip(settlement.participants, settlement.clearing.net, strict=True):
            paid[names[i]] -= int(net)
    return dict(paid)


def test_every_part_is_upgraded_one_at_a_time_and_no_round_is_lost(tmp_path):
    (tmp_path / "operator").mkdir()
    with (
        tempfile.TemporaryDirectory(prefix="ipfl-") as sockets,
        operator(tmp_path / "operator") as market,
    ):
        upgrade = Upgrade(market, Path(sockets), tmp_path)
        group, old, new = market.group, upgrade.bundles["old"], upgrade.bundles["new"]
        assert old != new
        run_trainer_module(
            group, "initial", "--task", "digits", "--seed", 1, "--out", theta0_file(tmp_path)
        )
        (tmp_path / "nodes").mkdir()
        for name in upgrade.institutions:
            folder = upgrade.node_folder(name)
            market.flower.register(name, join(folder, market.fleet, market.ca, bundle=old))
            upgrade.start_trainer(name, "old")
            upgrade.start_supernode(name, "old")
        for name in upgrade.institutions:
            upgrade.wait_for_trainer(name)

        with upgrade.run("old") as (run, printed):
            upgrade.wait_for_round(printed)
            # The institutions, one after another, in the midst of rounds.
            for name in upgrade.institutions:
                upgrade.end(f"trainer-{name}", 0)
                upgrade.start_trainer(name, "new")
                upgrade.wait_for_trainer(name)
                upgrade.end(f"supernode-{name}", 0)
                upgrade.start_supernode(name, "new")
                command = [str(part) for part in (*IPFL, "allow", upgrade.node_folder(name), new)]
                subprocess.run(command, check=True, timeout=START_S)
            # New trainers and SuperNodes with the old operator.
            upgrade.wait_for_round(printed)
            # The operator. `ipfl run` stops the server app before it ends.
            run.send_signal(signal.SIGTERM)
            assert run.wait(120) == 130, printed.read_text()
        with Ledger.open(upgrade.ledger_file, create=False) as ledger:
            assert ledger.server() is None, printed.read_text()
        before = upgrade.settled()
        assert "the market stands still" in printed.read_text()
        assert f"app bundle {old}" in printed.read_text()
        restart_superlink(upgrade)

        with upgrade.run("new", "--resume", rounds=before + 2) as (run, printed):
            assert run.wait(240) == 0, printed.read_text()
        assert f"app bundle {new}" in printed.read_text()

    with Ledger.open(upgrade.ledger_file, create=False) as ledger:
        rounds = ledger.rounds()
        assert [item.state for item in rounds] == [State.DELIVERED] * (before + 2)
        assert [item.participants for item in rounds] == [3] * (before + 2)
        assert [ledger.state(item.number).failed for item in rounds] == [{}] * (before + 2)
        assert [event.kind for event in ledger.events()].count("resumed") == 1
        assert ledger.verify() == []
        assert audit_receipts(ledger, tmp_path / "institutions") == []
        assert ledger.balances() == balances_of_the_settlements(ledger)
        assert sum(ledger.balances().values()) == 0


def restart_superlink(upgrade):
    """Upgrade the SuperLink and its executor, with nothing else changed."""
    market = upgrade.market
    (port,) = (
        int(command[command.index("--port") + 1])
        for command in (market.group._restarts["superlink"][0],)
    )
    upgrade.end("superexec", 0, -signal.SIGTERM, 128 + signal.SIGTERM)
    upgrade.end("superlink", 0, 128 + signal.SIGTERM)
    for name in ("superlink", "superexec"):
        command = market.group._restarts[name][0]
        upgrade.start(name, command, "new")
        wait_for_port(port, market.group, "superlink", deadline_s=START_S)
