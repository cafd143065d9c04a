"""``ipfl experiment``: what it runs, what it keeps, how it goes on, what it prints."""

import dataclasses
import json
import os
import re
import shlex
import sys
from math import inf
from pathlib import Path

import numpy as np
import pytest
from support.experiments import tiny
from support.shared_data import shared_file

from ipfl_flower.cli import experiment as command
from ipfl_flower.experiment import runner, settings
from ipfl_flower.experiment.__main__ import main
from ipfl_flower.experiment.cache import Cache, Damage, forget_data, key_of, write_atomically
from ipfl_flower.experiment.definition import Choice, ExperimentError, Seat
from ipfl_flower.experiment.runner import Plan, Told, run
from ipfl_flower.experiment.settings import SETTINGS, build
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.clusters import clusters
from ipfl_flower.experiment.studies.gates import gates
from ipfl_flower.tasks import TaskDataError


@pytest.fixture
def known(monkeypatch):
    """Let the tiny setting be one that there is."""
    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=2))


class Listener:
    """Notes what is told: which methods are played, and which were there."""

    def __init__(self):
        self.begun, self.rounds, self.damaged = [], [], []

    def told(self):
        return Told(
            lambda setting, method, cached: self.begun.append((setting.seed, method, cached)),
            self.rounds.append,
            self.damaged.append,
        )


@pytest.mark.usefixtures("known")
def test_what_is_in_the_cache_is_not_played_again(tmp_path):
    plan = Plan(["tiny"], ["local", "fedavg"], seeds=[0, 1])
    first, second = Listener(), Listener()
    records = list(run(plan, Cache(tmp_path), first.told()))
    assert list(run(plan, Cache(tmp_path), second.told())) == records
    order = [(0, "local"), (0, "fedavg"), (1, "local"), (1, "fedavg")]
    assert first.begun == [(*item, False) for item in order]
    assert second.begun == [(*item, True) for item in order]
    assert first.rounds == [0, 1] * 4
    assert second.rounds == []
    assert [(r["seed"], r["method"]) for r in records] == order
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.usefixtures("known")
def test_an_interrupted_experiment_goes_on(tmp_path):
    plan = Plan(["tiny"], ["local", "fedavg"], seeds=[0])

    def interrupt(number):
        if listener.begun[-1][1] == "fedavg" and number == 1:
            raise KeyboardInterrupt

    listener = Listener()
    told = dataclasses.replace(listener.told(), on_round=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(run(plan, Cache(tmp_path), told))
    again = Listener()
    assert len(list(run(plan, Cache(tmp_path), again.told()))) == 2
    assert again.begun == [(0, "local", True), (0, "fedavg", False)]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("damage", ["cut", "changed", "another", "empty"])
def test_a_damaged_record_is_told_and_played_again(tmp_path, damage):
    plan, cache = Plan(["tiny"], ["local"], seeds=[0]), Cache(tmp_path)
    (record,) = run(plan, cache)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    kept = json.loads(whole)
    if damage == "changed":
        kept["record"]["institutions"][0]["test_accuracy"] = 1.0
    elif damage == "another":
        kept["key"]["method"] = "fedavg"
    texts = {"cut": whole[:100], "empty": "[]"}
    file.write_text(texts.get(damage, json.dumps(kept)))
    listener = Listener()
    (again,) = run(plan, cache, listener.told())
    assert [item.path for item in listener.damaged] == [file]
    assert again["institutions"] == record["institutions"]
    last = Listener()
    list(run(plan, cache, last.told()))
    assert last.damaged == []
    assert last.begun == [(0, "local", True)]


def test_all_that_decides_a_record_is_in_its_key(tmp_path, monkeypatch):
    setting = tiny()
    key = key_of(setting, "local", "cpu")
    json.dumps(key, allow_nan=False)
    assert key == key_of(tiny(), "local", "cpu")
    others = [
        key_of(setting, "fedavg", "cpu"),
        key_of(setting, "local", "cuda"),
        key_of(tiny(seed=1), "local", "cpu"),
        key_of(tiny(rounds=4), "local", "cpu"),
        key_of(tiny(seats={1: {"budget": 3.0}}), "local", "cpu"),
        key_of(tiny(options={"ditto": {"strength": 1.0}}), "local", "cpu"),
        key_of(tiny(sgd=dataclasses.replace(setting.sgd, momentum=0.5)), "local", "cpu"),
    ]
    with monkeypatch.context() as patched:
        patched.setattr("ipfl_flower.experiment.cache.code_digest", lambda: "other code")
        others.append(key_of(setting, "local", "cpu"))
    paths = {Cache(tmp_path).path(item) for item in [key, *others]}
    assert len(paths) == 1 + len(others)
    assert key["setting"]["seats"][0]["budget"] == repr(inf)


def test_other_data_versions_and_models_give_another_key(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    seats = tuple(
        Seat(
            name=f"institution-{i}",
            task={
                "name": "cifar10",
                "data_dir": str(tmp_path),
                "split": "clusters",
                "institution": i,
                "institutions": 2,
                "samples": 10,
                "validation": 5,
            },
        )
        for i in range(2)
    )
    setting = dataclasses.replace(tiny(), seats=seats)

    def key():
        forget_data()
        return key_of(setting, "local", "cpu")

    def write(images):
        labels = np.arange(60) % 10
        splits = {"x_train": images[:50], "x_test": images[50:]}
        np.savez(tmp_path / "cifar10.npz", y_train=labels[:50], y_test=labels[50:], **splits)

    images = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    write(images)
    first = key()
    assert first == key()
    # The same folder and names, and other files.
    write(images[::-1])
    assert key() != first
    write(images)
    assert key() == first
    for variable in ("IPFL_DATA_DIR", "IPFL_LANGUAGE_MODEL"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, str(tmp_path))
            assert key() != first
    with monkeypatch.context() as patched:
        patched.setattr("ipfl_flower.experiment.cache._version", lambda name: "0.0.1")
        assert key() != first
    (tmp_path / "cifar10.npz").unlink()
    with pytest.raises(ExperimentError, match="tiny, seed 0, local: task cifar10: ") as caught:
        key()
    assert isinstance(caught.value.__cause__, TaskDataError)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_atomically(file, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_cache_that_cannot_be_read_is_damaged_not_missing(tmp_path):
    key = key_of(tiny(), "local", "cpu")
    cache = Cache(tmp_path)
    assert cache.find(key) is None
    cache.path(key).mkdir()
    found = cache.find(key)
    assert isinstance(found, Damage)
    assert "IsADirectoryError" in found.reason


@pytest.mark.usefixtures("known")
def test_the_program_writes_results_and_a_report(tmp_path, capsys):
    arguments = ["tiny", "--methods=ipfl,local", "--seeds=2", f"--output={tmp_path}"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Digits, 4 institutions" in shown
    assert str(tmp_path / "report.md") in shown
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    assert [(r["method"], r["seed"]) for r in records] == [
        ("ipfl", 0),
        ("local", 0),
        ("ipfl", 1),
        ("local", 1),
    ]
    report = (tmp_path / "report.md").read_text()
    local = [item for item in records if item["method"] == "local"]
    mean = sum(
        sum(item["test_accuracy"] for item in record["institutions"]) / 4 for record in local
    )
    line = next(line for line in report.splitlines() if line.startswith("| local |"))
    assert line.startswith(f"| local | {100 * mean / 2:.1f} ± ")
    cells = line.split(" | ")
    assert cells[2] == f"{100 * mean / 2:.1f}"  # alone, the trained model is the only one
    assert cells[4:9] == ["0.0", "0.0", "0.0", "–", "–"]
    for cost in ("1", "0.05"):  # the market is played at both; alone, utility is none at either
        title = report.index(f"### Utility at c = {cost}, credits")
        assert re.match(r"\| tiny \| \S+ ± \S+ \| 0.0 ± 0.0 \|", report[title:].splitlines()[4])
    assert "seeds 0, 1. Data: scikit-learn's digits." in report
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == records


@pytest.mark.usefixtures("known")
def test_a_stand_in_is_said_to_be_one(tmp_path, capsys, monkeypatch):
    stand_in = dataclasses.replace(tiny(rounds=1), stand_in=True, data="digits for faces")
    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: stand_in)
    assert main(["tiny", "--methods=local", "--seeds=1", f"--output={tmp_path}"]) == 0
    assert "digits for faces — a stand-in" in capsys.readouterr().out
    assert "Data: digits for faces, **a stand-in**." in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("known")
def test_settings_are_played_with_as_many_rounds_as_are_asked_for(tmp_path):
    arguments = ["tiny", "--methods=local", "--quick", f"--output={tmp_path}"]
    for more, rounds, said in ((["--rounds=3"], 3, "3 rounds"), ([], 2, "2 rounds")):
        assert main([*arguments, *more]) == 0
        (record,) = json.loads((tmp_path / "results.json").read_text())["records"]
        assert len(record["rounds"]) == rounds
        report = (tmp_path / "report.md").read_text()
        assert shlex.join(["--quick", *more]) + "\n```" in report
        assert f"**A quick run**: {said}, few samples" in report
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_studies_have_the_rounds_that_are_asked_for_and_gates_their_own(tmp_path, monkeypatch):
    played = []
    bench = Bench(Cache(tmp_path), seeds=(0,), rounds=7)
    (choice,) = bench.choices()
    cluster = {"name": "x", "title": "X", "groups": 2, "members": [{}, {}], "economics": "cheap"}
    assert clusters(choice, **cluster).rounds == 7
    assert clusters(choice, **cluster, rounds=2).rounds == 2
    monkeypatch.setattr(bench, "play", lambda setting, method: played.append(setting) or {})
    with pytest.raises(KeyError):  # of records in which nothing is
        gates(bench)
    rounds = {setting.rounds for setting in played}
    assert 20 in rounds
    assert 7 not in rounds


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["moon"], "setting 'moon' is not known: choose from cifar10_cluster, "),
        (["fashion_iid", "--methods=magic"], "method 'magic' is not known: choose from ipfl, "),
        ([], "name a setting, or say --all: cifar10_cluster, "),
        (["fashion_iid", "--seeds=0"], "--seeds must be ≥ 1, is 0"),
        (["fashion_iid", "--rounds=0"], "--rounds must be ≥ 1, is 0"),
        (
            ["pacs", "--dataset=a/b", "--data-dir=/nowhere"],
            "--data-dir and --dataset both say where the data is: leave one out",
        ),
        (["--all", "--dataset=a/b"], "--dataset is not for --all and --study: name settings"),
        (
            ["pacs", "--study=attacks", "--dataset=a/b"],
            "--dataset is not for --all and --study: name settings",
        ),
        # Before anything is played.
        (["pacs", "femnist", "--dataset=a/b"], "setting femnist takes no --dataset, which is for "),
        (
            ["fashion_iid", "--dataset=here", "--methods=local"],
            "setting fashion_iid: task.dataset: must be a name on Hugging Face's hub",
        ),
        (
            ["cifar10_skew", "--dataset=/nowhere", "--seeds=1", "--methods=local"],
            "cifar10_skew, seed 0, local: task cifar10: /nowhere is not a folder: set dataset to ",
        ),
        (
            ["fashion_iid", "--data-dir=/nowhere", "--seeds=1", "--methods=local"],
            "fashion_iid, seed 0, local: task fashion_mnist: /nowhere/",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, line):
    assert main([*arguments, f"--output={tmp_path}"]) == 1
    found = capsys.readouterr().err.splitlines()[-1]
    assert found.startswith(f"ipfl experiment: {line}")


@pytest.mark.usefixtures("known")
def test_an_interruption_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_one", interrupted)
    assert main(["tiny", "--methods=local", f"--output={tmp_path}"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_the_command_becomes_the_program(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(os, "execve", lambda *call: called.append(call))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    command.experiment(
        ["moon"], methods="local", quick=True, rounds=4, dataset="a/b", output=tmp_path
    )
    ((program, arguments, env),) = called
    assert program == sys.executable
    assert arguments[:4] == [sys.executable, "-P", "-m", "ipfl_flower.experiment"]
    assert {"--rounds=4", "--dataset=a/b"} <= set(arguments)
    assert env["OMP_NUM_THREADS"] == "7"
    assert main(arguments[4:]) == 1  # it is understood: there is no such setting


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("quick", [False, True])
def test_every_setting_is_what_it_says(name, quick):
    needed = {"cifar10": "cifar10_small.npz", "pacs": "pacs32.npz"}.get(name.split("_")[0])
    folder = Path(shared_file(needed)) if needed else None
    setting = build(name, Choice(3, quick=quick, data_dir=folder))
    assert setting.name == name
    assert setting.seed == 3
    assert setting == build(name, Choice(3, quick=quick, data_dir=folder))
    assert len({seat.name for seat in setting.seats}) == len(setting.seats)
    assert setting != build(name, Choice(4, quick=quick, data_dir=folder))
    assert len(setting.title) <= 90


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_is_on_the_data_set_that_is_named_or_refuses_it(name):
    choice = Choice(3, quick=True, dataset="owner/pictures@v1")
    if not name.startswith(("cifar10", "fashion", "pacs")):
        message = f"^setting {name} takes no --dataset, which is for cifar10_cluster, .*, pacs$"
        with pytest.raises(ExperimentError, match=message):
            build(name, choice)
        return
    setting = build(name, choice)
    assert {seat.task["dataset"] for seat in setting.seats} == {"owner/pictures@v1"}
    assert setting.data == "owner/pictures@v1 (Hugging Face)"
    assert setting.stand_in
    own = {"c": "uoft-cs/cifar10", "f": "zalando-datasets/fashion_mnist", "p": "flwrlabs/pacs"}
    assert not build(name, dataclasses.replace(choice, dataset=own[name[0]])).stand_in


def test_settings_are_found_by_name_alone():
    assert settings.SETTINGS is SETTINGS
    with pytest.raises(ExperimentError, match="setting 'sun' is not known"):
        build("sun", Choice(0))
