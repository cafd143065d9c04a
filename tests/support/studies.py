"""What tests of the paper's studies share.

A test file names the fixtures that it takes: ``bench = studies.bench``.
"""

import pytest

from ipfl_flower.experiment.cache import Cache
from ipfl_flower.experiment.studies import clusters as clusters_module
from ipfl_flower.experiment.studies.bench import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(Cache(tmp_path / "runs"), seeds=(0,), quick=True)


@pytest.fixture
def digits(monkeypatch):
    """Let hidden groups be of digits, which are read in no time."""

    def task(choice, *, test, **options):
        return {"name": "digits", "seed": choice.seed, **options}

    monkeypatch.setattr(clusters_module, "task", task)


def judged(validation, test, *, better=None, better_test=None, noise=1.0):
    """Return what is read of a record: one honest institution and one of `noise`."""
    better = validation if better is None else better
    better_test = test if better_test is None else better_test
    pairs = ((validation, test, better_test, True), (noise, noise, noise, False))
    return {
        "institutions": [
            {
                "honest": honest,
                "validation_accuracy": own,
                "test_accuracy": tested,
                "better_round": 1,
                "better_test_accuracy": better_tested,
                "last_test_accuracy": tested,
                "utility": 0.0,
            }
            for own, tested, better_tested, honest in pairs
        ],
        "rounds": [
            {"better_validation_accuracy": [0.0, 0.0], "welfare": 0.0},
            {"better_validation_accuracy": [better, noise], "welfare": 0.0},
        ],
        "bought": {"own_group": None, "dishonest": None},
        "cpu_seconds": 0.0,
    }
