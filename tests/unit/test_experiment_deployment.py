"""What a market on SuperNodes is made of and refuses, without starting one."""

import dataclasses
import tempfile
from math import inf

import numpy as np
import pytest
import torch
from support.experiments import silent, tiny

from ipfl_flower.cli import fleet
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.experiment import runner
from ipfl_flower.experiment.cache import Cache, key_of
from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.deployment import play_deployed, write_institutions
from ipfl_flower.experiment.play import market_settings, play_market, read_market
from ipfl_flower.experiment.runner import Plan, Told, run, run_one
from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.world import RandomLabels, World
from ipfl_flower.ledger import Ledger
from ipfl_flower.tasks import TaskError, load_task
from ipfl_flower.trainer import Institution
from ipfl_flower.trainer.proximal import AdamW, Sgd

LIAR = {"exaggerates": {"cost": 1.5, "samples": 2.0}, "budget": 3.0}
NOISE = {"role": "noise", "random_labels": True, "group": None}


@pytest.mark.parametrize(
    "sgd",
    [
        Sgd(iterations=20, momentum=0.5, weight_decay=1e-5),
        AdamW(epochs=2, betas=(0.8, 0.99), epsilon=1e-6),
    ],
)
def test_an_institutions_file_is_read_as_the_institution_it_was_written_from(tmp_path, sgd):
    world = World.of(tiny(seats={1: LIAR, 3: NOISE}, sgd=sgd))
    nodes = write_institutions(world, tmp_path)
    assert [node.name for node in nodes] == [seat.name for seat in world.setting.seats]
    for node, institution in zip(nodes, world.institutions, strict=True):
        read = Institution.load(node.institution_file)
        for name in ("name", "device", "threads", "terms", "sgd", "leaving", "limits"):
            assert getattr(read, name) == getattr(institution, name)
        assert read.state_dir == node.institution_file.parent / "state"
        assert (read.task.seed, read.task.institution) == (
            institution.task.seed,
            institution.task.institution,
        )
        mine, its = read.task.data(), institution.task.data()
        for part in ("train", "validation", "test"):
            one, other = getattr(mine, part), getattr(its, part)
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.labels, other.labels)
    assert Institution.load(nodes[1].institution_file).terms.budget == 3.0
    assert Institution.load(nodes[0].institution_file).terms.budget == inf


def test_random_labels_are_made_of_a_table_of_the_true_ones():
    name = f"{RandomLabels.__module__}:{RandomLabels.__name__}"
    true = tiny().seats[0].task
    assert load_task(name=name, of=true).task.options == load_task(**true).options
    for wrong in ({}, {"of": "digits"}, {"of": true, "samples": 3}):
        with pytest.raises(TaskError, match=r"it takes of, a \[task\] table, and nothing else"):
            load_task(name=name, **wrong)


@pytest.mark.parametrize(
    ("seat", "reason"),
    [
        ({"attack": "ones"}, "institution-2 sends 'ones' in place of its model"),
        ({"name": "../elsewhere"}, "is called '../elsewhere'"),
        ({"name": "a" * 49}, "its name must have 1 to 48"),
    ],
)
def test_what_no_deployed_institution_can_be_is_said_before_anything_is_made(seat, reason):
    setting = tiny(seats={2: seat})

    def no_world():
        raise AssertionError

    with pytest.raises(ExperimentError, match=reason):
        run_one(no_world, setting, "ipfl", silent, "deployment")


def test_other_methods_are_played_in_this_process_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=1))
    played, said = [], []

    def deployed(world, preset, folder, on_round, says):
        says(f"{preset} begins")
        played.append(preset)
        play = play_market(world, preset, folder, on_round)
        return dataclasses.replace(play, engine="deployment")

    monkeypatch.setattr(runner, "play_deployed", deployed)
    plan = Plan(["tiny"], ["ipfl-paper", "local"], seeds=[0], engine="deployment")
    market, local = run(plan, Cache(tmp_path), Told(says=said.append))
    assert played == ["paper"]
    assert said[0].endswith("played in this process: local")
    assert said[1:] == ["paper begins"]
    assert (market["engine"], local["engine"]) == ("deployment", "in-process")
    # In this process the market has not been played yet, and the other method has.
    begun = []
    here = dataclasses.replace(plan, engine="in-process")
    list(run(here, Cache(tmp_path), Told(lambda _, name, cached: begun.append((name, cached)))))
    assert begun == [("ipfl-paper", False), ("local", True)]
    with pytest.raises(ExperimentError, match=r"only the market \(ipfl, ipfl-paper\)"):
        run_one(lambda: World.of(tiny()), tiny(), "local", silent, "deployment")


def test_the_engine_is_in_the_key_of_a_record():
    setting = tiny()
    keys = [key_of(setting, "ipfl", "cpu", engine) for engine in ("in-process", "deployment")]
    assert keys[0] == key_of(setting, "ipfl", "cpu")
    assert keys[0] != keys[1]


def test_a_fleet_that_does_not_start_leaves_its_logs(tmp_path, monkeypatch):
    def start(self):
        self._group.log("superlink").write_text("no port is free")
        raise LaunchError("superlink ended (exit 1)")

    monkeypatch.setattr(fleet.Fleet, "start_superlink", start)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "play"
    folder.mkdir()
    said = []
    with pytest.raises(ExperimentError, match=r"^superlink ended \(exit 1\); logs: /") as raised:
        play_deployed(World.of(tiny()), "recommended", folder, silent, said.append)
    assert said == ["starting the SuperLink"]
    (kept,) = tmp_path.glob("ipfl-experiment-logs-*")
    assert str(raised.value).endswith(f"logs: {kept}")
    assert (kept / "superlink.log").read_text() == "no port is free"


def test_a_ledger_that_is_not_that_of_the_setting_is_none(tmp_path):
    world = World.of(tiny(rounds=2))
    play = play_market(world, "recommended", tmp_path, silent)
    settings = market_settings(world, "recommended", tmp_path)
    with Ledger.open(settings.ledger, create=False) as ledger:
        rounds, net, kept = read_market(ledger, world, settings)
        assert kept == play.ledger
        np.testing.assert_array_equal(net, play.net)
        np.testing.assert_array_equal(rounds[1].imports, play.rounds[1].imports)
        for other, reason in (
            (tiny(rounds=3), "the market ended after 2 of 3 rounds"),
            (tiny(rounds=2, seats={0: {"name": "x"}}), "the ledger's institutions are"),
        ):
            with pytest.raises(ExperimentError, match=reason):
                read_market(ledger, dataclasses.replace(world, setting=other), settings)
