"""The market of an experiment on real SuperNodes: the same numbers, and nothing left running."""

import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.experiments import silent, tiny

from ipfl_flower.experiment.deployment import play_deployed
from ipfl_flower.experiment.play import play_market
from ipfl_flower.experiment.record import make_record
from ipfl_flower.experiment.world import World
from ipfl_flower.ledger import Ledger

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"
ROUNDS = 2
# What a seat can be that its institution.toml must say: another's cost, labels at random.
SEATS = {
    0: {"exaggerates": {"cost": 1.5}},
    1: {"role": "noise", "random_labels": True, "group": None},
}


def settled(folder):
    """Return the rounds of a market, and the institutions that its ledger knows."""
    with Ledger.open(folder / "ledger.db", create=False) as ledger:
        assert ledger.verify() == []
        names = [item.name for item in ledger.institutions()]
        return names, [ledger.settlement(number) for number in range(ROUNDS)]


def running(folder):
    """Return the command lines of what was started for a market in `folder` and still runs."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("FLWR_HOME", "") and process.is_running():
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return [command for command in found if command]


def test_both_engines_come_to_the_same(tmp_path):
    world = World.of(tiny(rounds=ROUNDS, sizes=(30, 40, 50), seats=SEATS))
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    told, said = [], []
    played = [
        play_market(world, "paper", here, silent),
        play_deployed(world, "paper", there, told.append, said.append),
    ]
    assert told == list(range(ROUNDS))
    assert said[-1].startswith("3 institutions, grpc-rere over TLS, authenticated nodes")
    assert running(there) == []
    (names, expected), (others, found) = settled(here), settled(there)
    assert others == names
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other.clearing.imports, one.clearing.imports)
        np.testing.assert_array_equal(other.clearing.transfers, one.clearing.transfers)
        np.testing.assert_array_equal(other.distances, one.distances)
        # Not near: the same models, bit for bit.
        assert other.model_digests == one.model_digests
        assert other.terms == one.terms
    assert sum(item.clearing.transfers.sum() for item in found) > 0
    records = [make_record(world, "ipfl-paper", play, local_trainings=1) for play in played]
    assert [record.pop("engine") for record in records] == ["in-process", "deployment"]
    for record in records:
        # The time it took, and signatures of the moment.
        del record["seconds"], record["cpu_seconds"], record["ledger"]["head"]
    assert records[0] == records[1]


def test_an_interruption_ends_every_process(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [IPFL, "experiment", "fashion_iid", "--quick", "--methods=ipfl", "--seeds=1"]
    command += ["--engine=deployment", f"--output={tmp_path / 'out'}"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as experiment:
        try:
            for line in experiment.stderr:
                if line.startswith("starting 12 trainers"):
                    break
            assert any("superlink" in part for program in running(tmp_path) for part in program)
        finally:
            experiment.send_signal(signal.SIGINT)
        rest = experiment.stderr.read()
    assert experiment.returncode == 130, rest
    assert "interrupted; what was finished is in" in rest
    assert running(tmp_path) == []
    assert [item.name for item in tmp_path.iterdir()] == []
