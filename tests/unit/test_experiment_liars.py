"""Institutions that lie about their terms: what it pays them."""

import numpy as np
import pytest
from support import studies

from ipfl_flower.experiment.definition import Choice
from ipfl_flower.experiment.studies.liars import (
    LIES,
    counterexample,
    lying,
    one_market,
    rules_of,
    summed,
    utilities_of,
)
from ipfl_flower.experiment.studies.trained_liars import gains, lying_setting, trained
from ipfl_flower.market import Terms

bench = studies.bench


def test_understating_a_cost_pays_under_paper_and_not_under_truthful():
    found = {(one["mechanism"], one["said"]): one for one in counterexample()}
    assert not found["paper", 2.2]["sells"]
    assert found["paper", 1.9]["paid"] == pytest.approx(2.929, abs=5e-4)
    assert found["paper", 1.9]["utility"] == pytest.approx(0.729, abs=5e-4)
    assert found["truthful", 2.2]["utility"] == 0
    assert found["truthful", 1.9]["utility"] == pytest.approx(-0.2, abs=1e-6)


def test_a_liars_utility_is_counted_with_its_real_terms():
    # One seller at no distance, √K = 100, N = 100 each: it is paid the whole gain that is reported.
    truth = [Terms(100, 0.0, 1e4), Terms(100, 0.5, 0.0)]
    one, two = 10 - 100 / np.sqrt(200), 10 - 100 / np.sqrt(300)

    def found(who, field, factor):
        said = lying(truth, [who], field, factor)
        assert getattr(said[who], field) == factor * getattr(truth[who], field)
        return utilities_of(truth, said, np.zeros((2, 2)), rules_of("truthful"))

    assert found(1, "cost", 2.0) == pytest.approx([0.0, one - 0.5], abs=2e-6)
    # The buyer pays for 200 samples and has 100 …
    assert found(1, "samples", 2.0) == pytest.approx([one - two, two - 0.5], abs=2e-6)
    # … or pays as if it were keener than it is.
    keen = np.sqrt(2) * one
    assert found(0, "eagerness", 2.0) == pytest.approx([one - keen, keen - 0.5], abs=2e-6)


@pytest.mark.parametrize("economics", ["paper", "cheap"])
@pytest.mark.parametrize("seed", range(4))
def test_overstating_a_cost_never_pays_a_single_liar(seed, economics):
    for mechanism in ("truthful", "paper"):
        found = one_market(seed, 12, economics, mechanism)
        assert max(found["cost × 2"]["alone"]) <= 1e-5
        if mechanism == "truthful":
            assert max(found["cost × ½"]["alone"]) <= 1e-5
        assert set(found) == set(LIES)


def test_exaggerated_eagerness_pays_through_the_price_of_distance_alone():
    pays = [
        max(one_market(seed, 30, "cheap", "truthful", weight)["eagerness × 2"]["alone"])
        for weight in (None, 0.0)
        for seed in range(3)
    ]
    assert max(pays[:3]) > 0.1
    assert max(pays[3:]) <= 1e-5


def test_lies_are_summed_up_over_markets():
    drawn = [
        {"liars": 2.0, "honest": 1.0, "all": 3.0, "all_honest": 4.0, "alone": [1.0, -1.0]},
        {"liars": 2.0, "honest": 4.0, "all": 3.0, "all_honest": 3.0, "alone": [-1.0, -1.0]},
    ]
    found = summed(drawn)
    assert found["difference"] == -0.5
    assert found["error"] == pytest.approx(1.5)
    assert (found["pays"], found["alone"], found["everybody"]) == (0.25, -0.5, -0.5)


def test_one_liar_of_a_market_that_trains(bench, monkeypatch):
    settings = []

    def play(setting, market):
        settings.append(setting)
        seats = [{"utility": 1.0, "test_accuracy": 0.5, "honest": True} for _ in setting.seats]
        lies = [k for k, seat in enumerate(setting.seats) if seat.exaggerates]
        for k in lies:
            seats[k] = {"utility": 3.0, "test_accuracy": 0.25, "honest": True}
        return {"institutions": seats}

    monkeypatch.setattr(bench, "play", play)
    table, plays = trained(bench, {"cost × 2": ("cost", 2.0)})
    assert [one["difference"] for one in plays] == [[2.0]] * 4
    assert [one["accuracy"] for one in plays] == [[-0.25]] * 4
    assert len(table.rows) == 4
    said, where = gains(plays)
    assert said.endswith("the liar gained in 4 of 4 cases.")
    assert where[0] == "cost × 2 under truthful, c = 1 (+2.00 credits)"
    plays[0]["difference"] = [-2.0]
    assert gains(plays)[1] == where[1:]
    liars = {seat.name for setting in settings for seat in setting.seats if seat.exaggerates}
    assert liars == {"group0-160"}
    other, liar = lying_setting(Choice(1, quick=True), "paper", ("samples", 2.0))
    assert other.seats[liar].name == "group1-160"
    assert other.seats[liar].exaggerates == {"samples": 2.0}
