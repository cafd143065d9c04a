"""Local-only, FedAvg and θ⁰: by hand on small cases, and as the programs that the demo starts."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ipfl_flower.trainer import FitRequest, Institution, Trainer, baselines
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.initial import main as initial_main
from ipfl_flower.trainer.learner import Learner

THETA_0 = initial_model({"name": "digits"}, 0)


def write(folder, number, samples=40, rate=0.2):
    path = folder / f"{number}.toml"
    path.write_text(
        f"""
name = "i{number}"
state_dir = "state-{number}"
[terms]
cost = 0.05
eagerness = 5000
[training]
iterations = 15
batch_size = 16
learning_rate = {rate}
[task]
name = "digits"
split = "clusters"
groups = 2
institution = {number}
institutions = 4
samples = {samples}
seed = 1
"""
    )
    return path


@pytest.fixture
def institutions(tmp_path):
    return [Institution.load(write(tmp_path, i, 30 + 20 * i)) for i in range(4)]


def test_local_only_is_a_market_without_trade(institutions):
    expected = []
    for institution in institutions:
        trainer = Trainer(institution)
        for number in range(3):
            reply = trainer.fit(FitRequest(round=number, initial=THETA_0))
        expected.append(reply.metrics["best_test_accuracy"])
    assert baselines.local_only(institutions, 3) == expected


def test_fedavg_of_one_institution_is_local_only(institutions):
    alone = institutions[:1]
    assert baselines.fedavg(alone, 3) == baselines.local_only(alone, 3)


def test_fedavg_weighs_by_training_samples(institutions):
    learners = [Learner(institution) for institution in institutions]
    for learner in learners:
        learner.put(THETA_0)
        learner.train(round_number=0)
    models = [learner.arrays() for learner in learners]
    sizes = [30, 50, 70, 90]
    mean = {
        name: (sum(n * m[name] for n, m in zip(sizes, models, strict=True)) / 240).astype("f4")
        for name in THETA_0
    }
    for learner in learners:
        learner.put(mean)
    expected = [learner.scores().test_accuracy for learner in learners]
    np.testing.assert_allclose(baselines.fedavg(institutions, 1), expected, atol=0.006)


def test_hidden_groups_hurt_fedavg(institutions):
    local, averaged = baselines.local_only(institutions, 6), baselines.fedavg(institutions, 6)
    assert np.mean(local) > np.mean(averaged) + 0.1


def test_the_initial_model_decides(institutions):
    other = initial_model({"name": "digits"}, 1)
    assert baselines.local_only(institutions, 1) != baselines.local_only(institutions, 1, other)


def test_the_program_prints_json(tmp_path, capsys):
    paths = [write(tmp_path, 0), write(tmp_path, 1)]
    initial = tmp_path / "model.npz"
    assert initial_main(["--task", "digits", "--seed", "3", "--out", str(initial)]) == 0
    arguments = [word for path in paths for word in ("--institution", str(path))]
    assert baselines.main([*arguments, "--rounds", "2", "--initial", str(initial)]) == 0
    result = json.loads(capsys.readouterr().out)
    loaded = [Institution.load(path) for path in paths]
    start = initial_model({"name": "digits"}, 3)
    for kind, method in (("local", baselines.local_only), ("fedavg", baselines.fedavg)):
        assert list(result[kind].values()) == method(loaded, 2, start)
        assert list(result[kind]) == ["i0", "i1"]


def test_a_mistake_ends_the_program_with_one_line(tmp_path, capsys):
    path = write(tmp_path, 0, samples=-1)
    assert baselines.main(["--institution", str(path), "--rounds", "1"]) == 1
    line = capsys.readouterr().err
    assert line == f"error: {path}: task.samples must be ≥ 1, is -1\n"
    wild = write(tmp_path, 1, rate=1e30)
    assert baselines.main(["--institution", str(wild), "--rounds", "3"]) == 1
    assert "diverged in round" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        baselines.main(["--institution", str(path), "--rounds", "0"])


def test_an_initial_model_of_another_task_is_refused(tmp_path, capsys):
    other = tmp_path / "model.npz"
    assert initial_main(["--task", "fashion_mnist", "--model", "cnn", "--out", str(other)]) == 0
    path = write(tmp_path, 0)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(other.read_bytes()[:99])
    arguments = ["--institution", str(path), "--rounds", "1", "--initial", str(damaged)]
    assert baselines.main(arguments) == 1
    assert "damaged.npz is missing or damaged" in capsys.readouterr().err
    arguments = ["--institution", str(path), "--rounds", "1", "--initial", str(other)]
    assert baselines.main(arguments) == 1
    assert "array '5.weight' is unknown" in capsys.readouterr().err


def test_initial_as_a_program_writes_the_same_model(tmp_path):
    out = tmp_path / "model.npz"
    command = [sys.executable, "-W", "error", "-m", "ipfl_flower.trainer.initial"]
    subprocess.run([*command, "--task", "digits", "--out", str(out)], check=True)
    with np.load(out, allow_pickle=False) as file:
        assert file.files == list(THETA_0)
        for name in file.files:
            np.testing.assert_array_equal(file[name], THETA_0[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "digit"], "error: task.name 'digit' is not known: choose from cifar10, digits"),
        (["--task", "digits", "--model", "cnn"], "error: task.model is not a setting"),
    ],
)
def test_initial_names_a_mistake(tmp_path, capsys, arguments, message):
    assert initial_main([*arguments, "--out", str(tmp_path / "m.npz")]) == 1
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "m.npz").exists()
