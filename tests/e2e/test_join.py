"""Joining and expulsion, with a real SuperLink, real SuperNodes and the commands themselves."""

import json
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from support.real_market import IPFL, real_market

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.demo import DemoOptions, market_settings
from ipfl_flower.cli.fleet import Fleet, environment
from ipfl_flower.cli.flower import SCRIPTS
from ipfl_flower.cli.kit import Kit
from ipfl_flower.cli.node_keys import fingerprint, load_node_key
from ipfl_flower.cli.processes import ProcessGroup, free_port
from ipfl_flower.ledger import Ledger, State

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


class Commands:
    """Runs `ipfl` as the operator of a market in `folder`, and as its institutions."""

    def __init__(self, folder, fleet_address):
        self.folder = folder
        self.market = folder / "market.toml"
        self.env = environment(folder / "flower")
        self.fleet_address = fleet_address

    def run(self, *arguments):
        command = [str(part) for part in (IPFL, *arguments)]
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=120, check=False
        )

    def __call__(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout
        assert done.stderr.startswith("ipfl: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    def admission(self, folder, name, kit, *, read_out=False):
        shown = fingerprint(load_node_key(folder).public_key())
        return [
            *("admit", folder / f"{name}.request.json", "--market", self.market, "--kit", kit),
            *("--certificates", self.folder / "certificates", "--fleet", self.fleet_address),
            *(["--fingerprint", shown] if read_out else []),
        ]


def wait_until(condition, what, deadline_s=60.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.2)


def supernode(folder):
    """Return the command of a SuperNode that has what `ipfl join` wrote, and no more."""
    return [
        *(SCRIPTS / "flower-supernode", "--superlink", Kit.read(folder / "kit.json").fleet),
        *("--root-certificates", folder / "ca.pem"),
        *("--auth-supernode-private-key", folder / "node.key"),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]


def test_an_institution_joins_and_is_expelled(tmp_path):
    alder, thief, kit = tmp_path / "alder", tmp_path / "thief", tmp_path / "alder.kit.json"
    with (
        tempfile.TemporaryDirectory(prefix="ipfl-") as sockets,
        ProcessGroup(tmp_path / "logs", environment(tmp_path / "flower")) as group,
    ):
        fleet = Fleet(tmp_path, group, Path(sockets))
        fleet.start_superlink()
        ipfl = Commands(tmp_path, fleet.fleet_address)
        ipfl.market.write_text(to_toml(market_settings(DemoOptions(), tmp_path)))

        def status():
            return {node.name: node.status for node in fleet.flower.nodes()}

        ipfl("join-request", "alder", "--dir", alder)
        shown = fingerprint(load_node_key(alder).public_key())
        assert "--fingerprint SHA256:" in ipfl.refused(*ipfl.admission(alder, "alder", kit))
        assert status() == {}
        printed = ipfl(*ipfl.admission(alder, "alder", kit, read_out=True))
        assert shown in printed
        assert status() == {"alder": "registered"}
        first = kit.read_bytes()
        ipfl(*ipfl.admission(alder, "alder", kit))
        assert kit.read_bytes() == first

        ipfl("join-request", "alder", "--dir", thief)
        refusal = ipfl.refused(*ipfl.admission(thief, "alder", tmp_path / "stolen"))
        assert shown in refusal
        assert fingerprint(load_node_key(thief).public_key()) in refusal
        assert not (tmp_path / "stolen").exists()

        assert "--operator KEY" in ipfl.refused("join", kit, "--dir", alder)
        printed = ipfl("join", kit, "--dir", alder, "--operator", printed.split()[-1])
        assert "distance-weight" in printed
        group.start("supernode", supernode(alder))
        wait_until(lambda: status() == {"alder": "online"}, "alder is online")

        # What Flower runs is what the kit names.
        run = fleet.flower.submit(stage_app(tmp_path / "app"), ipfl.market)
        command = [SCRIPTS / "flwr", "list", "market", "--run-id", str(run), "--format", "json"]
        (shown_run,) = json.loads(group.run("list", command, timeout_s=60))["runs"]
        assert [shown_run["fab-hash"]] == Kit.read(kit).bundles

        said = ipfl("expel", "alder", "--market", ipfl.market, "--reason", "sold noise")
        assert "its key is unregistered" in said
        assert status() == {"alder": "unregistered"}
        wait_until(lambda: "supernode" in group.dead(), "the SuperNode that runs is refused")
        group.start("again", supernode(alder))
        wait_until(lambda: "again" in group.dead(), "an expelled SuperNode is refused")
        assert status() == {"alder": "unregistered"}
        assert "takes no key twice" in ipfl.refused(*ipfl.admission(alder, "alder", kit))
        assert "not registered" in ipfl("expel", "alder", "--market", ipfl.market)
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        assert [item.name for item in ledger.institutions()] == ["alder"]
        assert ledger.expelled() == {0: "sold noise"}
        kinds = [item.kind for item in ledger.events() if "Flower run" not in item.text]
        assert kinds[:3] == ["admitted", "kit", "not admitted"]
        assert kinds.count("expelled") == 1


def test_a_superlink_that_is_not_there_is_one_line(tmp_path):
    ipfl = Commands(tmp_path, "127.0.0.1:9092")
    ipfl("certs", "operator", tmp_path / "certificates", "--host", "127.0.0.1")
    ipfl.market.write_text(to_toml(market_settings(DemoOptions(), tmp_path)))
    ipfl("join-request", "alder", "--dir", tmp_path / "alder")
    admission = ipfl.admission(tmp_path / "alder", "alder", tmp_path / "kit", read_out=True)
    (tmp_path / "flower").mkdir()
    assert "market" in ipfl.refused(*admission)
    (tmp_path / "flower" / "config.toml").write_text(
        f'[superlink.market]\naddress = "127.0.0.1:{free_port()}"\n'
        f"root-certificates = {json.dumps(str(tmp_path / 'certificates/ca.pem'))}\n"
    )
    assert "SuperLink" in ipfl.refused(*admission)
    assert not (tmp_path / "kit").exists()
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        assert ledger.institutions() == []


def test_a_market_goes_on_without_who_is_expelled_and_admits_meanwhile(tmp_path):
    options = DemoOptions(rounds=5, institutions=3, groups=1)
    with real_market(options, tmp_path, **{"absence-s": 5.0}) as market:
        ipfl = Commands(tmp_path, "127.0.0.1:9092")
        ipfl("join-request", "elm", "--dir", tmp_path / "elm")
        market.wait_until(lambda: market.settled() >= 1)
        ipfl("expel", "cedar", "--market", ipfl.market, "--reason", "sold noise")
        ipfl(*ipfl.admission(tmp_path / "elm", "elm", tmp_path / "kit", read_out=True))
        assert market.run.wait(400) == 0, market.printed
    with Ledger.open(market.ledger_file, create=False) as ledger:
        assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 5
        assert [item.participants for item in (ledger.rounds()[0], ledger.rounds()[-1])] == [3, 2]
        asked = {item.name: item.id for item in ledger.institutions()}
        assert list(asked)[-1] == "elm"
        assert asked["cedar"] not in ledger.state().asked
        # It stopped trading, and what it had traded stays.
        account = ledger.statement("cedar")
        assert account.lines
        assert max(line.round for line in account.lines) < 4
        assert ledger.balances()["cedar"] == -account.net
        assert sum(ledger.balances().values()) == 0
        assert ledger.verify() == []
    assert f"app bundle {Kit.read(tmp_path / 'kit').bundles[0]}" in market.printed
