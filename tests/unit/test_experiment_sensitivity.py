"""How a market answers to its terms, everybody's or one institution's."""

import numpy as np
import pytest

from ipfl_flower.experiment.studies.liars import rules_of
from ipfl_flower.experiment.studies.sensitivity import EVERYBODY, outcome, recorded, single
from ipfl_flower.experiment.studies.synthetic import Synthetic
from ipfl_flower.market import Rules, Terms, distances


def scene_of(institutions=10):
    scene = Synthetic(institutions, 2, 500, seed=3)
    return scene.terms(10.0, 0.05), distances(scene.gram(), "cosine")


def test_a_market_in_other_money_is_the_same_market():
    terms, apart = scene_of()
    base = outcome(terms, apart, Rules(distance_weight=5.0))
    # Twice everybody's money: K × 4, c × 2, λ × 2.
    richer = EVERYBODY["c"](EVERYBODY["K"](terms, 4.0), 2.0)
    double = outcome(richer, apart, Rules(distance_weight=10.0))
    assert double["edges"] == base["edges"] > 0
    assert double["utility"] == pytest.approx(2 * base["utility"], rel=1e-5)
    assert double["moved"] == pytest.approx(2 * base["moved"], rel=1e-5)


def test_nothing_is_traded_at_a_cost_beyond_all_gain():
    terms, apart = scene_of()
    assert outcome(EVERYBODY["c"](terms, 1e4), apart, Rules()) == {
        "edges": 0.0,
        "utility": 0.0,
        "moved": 0.0,
    }


def test_one_institution_alone_and_unchanged_is_the_market_itself():
    terms, apart = scene_of()
    one = single(terms, apart, 3, "cost", 1.0)
    all_ = outcome(terms, apart, rules_of("truthful"))
    mean = np.mean([single(terms, apart, i, "cost", 1.0)["utility"] for i in range(len(terms))])
    assert mean == pytest.approx(all_["utility"])
    dear = single(terms, apart, 3, "cost", 1e6)
    assert (one["sold"] > 0, dear["sold"]) == (True, 0)
    assert dear["bought"] == one["bought"]
    assert single(terms, apart, 3, "eagerness", 0.0)["bought"] == 0


def test_a_records_distances_come_back_with_nan_for_what_is_not_tradable():
    record = {
        "institutions": [
            {"samples": 10, "cost": 0.5, "eagerness": 100.0, "honest": True},
            {"samples": 20, "cost": 0.5, "eagerness": 0.0, "honest": False},
        ],
        "rounds": [{"distances": [[0.0, 1.0], [1.0, 0.0]]}, {"distances": [[0.0, None], [0.5, 0]]}],
    }
    terms, apart, honest = recorded(record)
    assert terms == [Terms(10, 0.5, 100.0), Terms(20, 0.5, 0.0)]
    np.testing.assert_array_equal(apart, [[0.0, np.nan], [0.5, 0.0]])
    assert honest.tolist() == [True, False]
