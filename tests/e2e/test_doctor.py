"""Both doctors, with a real SuperLink, SuperNode and trainer, from an admission to an expulsion."""

import json
import subprocess
import tempfile
from pathlib import Path

import grpc
import pytest
from flwr.proto.fleet_pb2_grpc import FleetStub
from support.door import IPFL, operator, running_supernode, wait_until
from support.trainers import institution_file, trainer_process

from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.demo import DemoOptions, market_settings, run_trainer_module, theta0_file
from ipfl_flower.cli.doctoring.clock import measure_skew
from ipfl_flower.cli.doctoring.fleet_calls import _accepts
from ipfl_flower.cli.fleet import environment
from ipfl_flower.cli.processes import ProcessGroup

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


class Commands:
    """Runs `ipfl` with the operator's Flower configuration."""

    def __init__(self, folder):
        self._env = environment(folder / "flower")

    def run(self, *arguments):
        command = [str(part) for part in (*IPFL, *arguments)]
        return subprocess.run(
            command, env=self._env, capture_output=True, text=True, timeout=120, check=False
        )

    def __call__(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def doctor(self, *arguments):
        """Return the exit code, and state and line by check."""
        done = self.run("doctor", *arguments, "--json")
        assert done.stderr == ""
        found = json.loads(done.stdout)
        assert all(list(item) == ["check", "state", "line"] for item in found)
        assert all(item["line"] and item["line"].isprintable() for item in found)
        return done.returncode, {item["check"]: (item["state"], item["line"]) for item in found}


def layout(findings, check):
    return findings[check][1].partition("layout ")[2].split(":")[0]


def test_both_doctors_from_an_admission_to_an_expulsion(tmp_path):
    home, alder, kit = tmp_path / "operator", tmp_path / "alder", tmp_path / "alder.kit.json"
    home.mkdir()
    ipfl = Commands(home)
    market = home / "market.toml"
    market.write_text(to_toml(market_settings(DemoOptions(), home)))
    certificates = home / "certificates"
    with (
        tempfile.TemporaryDirectory(prefix="ipfl-") as sockets,
        operator(home) as running,
        ProcessGroup(tmp_path / "logs", environment(home / "flower")) as group,
    ):
        address = f"unix://{sockets}/alder.sock"
        run_trainer_module(
            group, "initial", "--task", "digits", "--seed", 1, "--out", theta0_file(home)
        )
        shown = ipfl("join-request", "alder", "--dir", alder).split()[-1]
        books = ("--market", market, "--certificates", certificates)
        where = ("--fleet", running.fleet, "--kit", kit, "--fingerprint", shown)
        said = ipfl("admit", alder / "alder.request.json", *books, *where)
        ipfl("join", kit, "--dir", alder, "--operator", said.split()[-1])
        file = institution_file(tmp_path / "trainer")
        asked = ("institution", alder, "--trainer", address, "--institution", file)
        told = (
            *("operator", *books, "--fleet", running.fleet),
            *("--superlink-folder", home / "superlink"),
        )

        with trainer_process(file, "--listen", address):
            code, found = ipfl.doctor(*asked)
            states = {check: state for check, (state, _) in found.items() if state != "ok"}
            assert (code, states) == (0, {"receipt key": "warn"}), found
            code, theirs = ipfl.doctor(*told)
            assert (code, {state for state, _ in theirs.values()}) == (0, {"ok"}), theirs
            assert layout(found, "model layout") == layout(theirs, "initial model") != ""
            assert theirs["refusals"][1] == "nobody was refused"

        # Who looks does not disturb who works with the same key.
        with running_supernode(alder, tmp_path / "supernode.log") as supernode:
            code, found = ipfl.doctor(*asked)
            assert found["registration"][0] == "ok"
            assert (code, found["trainer"][0]) == (1, "fail")
            assert ipfl.doctor(*told)[1]["superlink"][1].endswith("online: 1")
            assert supernode.poll() is None
            assert {node.status for node in running.flower.nodes()} == {"online"}

        clocks_apart(running, certificates)

        ipfl("expel", "alder", "--market", market)
        before = running.refusals().get("unknown-key", 0)
        code, found = ipfl.doctor(*asked)
        assert (code, found["registration"][0]) == (1, "fail")
        assert "ipfl admit" in found["registration"][1]
        running.wait_for_refusal("unknown-key", before)
        said = wait_until(
            lambda: (line := ipfl.run("doctor", *told).stdout).count("warn  refusals") and line,
            "the refusal is told",
        )
        assert "unknown-key 1" in said

    code, found = ipfl.doctor(*told)
    failing = {check for check, (state, _) in found.items() if state == "fail"}
    assert (code, failing) == (1, {"fleet address", "superlink"}), found
    assert "ipfl superlink" in found["superlink"][1]
    assert found["clock"][0] == "warn"


def clocks_apart(running, certificates: Path):
    """Measure a real SuperLink's clock as a machine does whose own is wrong."""
    credentials = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
    with grpc.secure_channel(running.fleet, credentials) as channel:
        accepts = _accepts(FleetStub(channel))
        for wrong_s in (-1800.0, -60.0, 0.0, 20.0, 1800.0):
            skew_s = measure_skew(lambda offset_s, by=wrong_s: accepts(offset_s + by), 5.0, 305.0)
            assert skew_s == pytest.approx(-wrong_s, abs=1.0)
        assert measure_skew(lambda offset_s: accepts(offset_s + 9000.0), 5.0, 305.0) is None
