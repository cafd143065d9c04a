"""Updates measured from their mean: distances, and what it gains or costs."""

import pytest
from support import studies
from support.experiments import tiny
from support.studies import judged

from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.studies.reference import (
    DEFAULT,
    SMALL,
    VALUES,
    reference,
    within_and_across,
)
from ipfl_flower.tasks import TaskDataError

bench = studies.bench


def test_distances_within_and_across_groups_leave_out_who_has_none_and_what_is_not_traded():
    groups = (0, 0, 1, None)
    apart = [[0, 0.2, 1.2, 9], [0.4, 0, 1.6, 9], [1.2, None, 0, 9], [9, 9, 9, 0]]
    record = {
        "institutions": [{"group": group} for group in groups],
        "rounds": [{"distances": [[7] * 4] * 4}, {"distances": apart}],
    }
    within, across = within_and_across(record)
    assert within == pytest.approx(0.3)
    assert across == pytest.approx((1.2 + 1.6 + 1.2) / 3)
    alone = {**record, "institutions": [{"group": 0}] * 4}
    assert within_and_across(alone)[1] is None


def test_what_the_mean_gains_or_costs_is_of_test_data_and_what_is_chosen_of_validation_data(
    bench, monkeypatch
):
    # By setting and value: validation and test accuracy, models bought.
    plays = {
        "grouped": [(0.5, 0.6, 1), (0.7, 0.7, 2), (0.6, 0.605, 2)],
        "alike": [(0.8, 0.8, 2), (0.4, 0.4, 0), (0.5, 0.9, 1)],
    }

    def play(setting, method):
        assert method == "ipfl"
        changes = setting.market.get("recommended", {})
        at = list(VALUES.values()).index(changes)
        validation, test, count = plays[setting.name][at]
        record = judged(validation, test)
        for item in record["institutions"]:
            item["group"] = 0
        for played in record["rounds"]:
            played |= {
                "imports": [[1]] * count + [[]] * (2 - count),
                "distances": [[0, at], [at, 0]],
            }
        return record

    for name in plays:
        monkeypatch.setitem(SETTINGS, name, lambda choice, n=name: tiny(choice.seed, name=n))
    monkeypatch.setattr(bench, "play", play)
    finding = reference(bench, list(plays))
    first, second = finding.data["settings"]
    assert (first["chosen"], second["chosen"]) == (["mean, λ = 5"], [DEFAULT])
    grouped, alike = finding.said
    assert grouped == (
        f"`grouped`: validation data would choose mean, λ = 5 (seeds: 1 of 1). At {DEFAULT} test "
        "accuracy is 60.0 %, with 0.5 models bought a round; mean, λ = 5 **gains**: +10.0 points, "
        "with 1.0 models; mean, λ = 2.88 changes little: +0.5 points, with 1.0 models."
    )
    assert alike == (
        f"`alike`: validation data would choose {DEFAULT} (seeds: 1 of 1). At {DEFAULT} test "
        "accuracy is 80.0 %, with 1.0 models bought a round; mean, λ = 5 **costs**: -40.0 points, "
        "with 0.0 models; mean, λ = 2.88 **gains**: +10.0 points, with 0.5 models."
    )
    row = ["alike", "mean, λ = 2.88", "90.0", "90.0", "0.5", "–", "0.0", "2.00", "–"]
    assert finding.tables[0].rows[-1] == row


def test_markets_are_played_from_the_mean_and_a_missing_model_is_said(bench, monkeypatch):
    def unfound(choice):
        raise TaskDataError("no model in sight: get one")

    # Takes the place of the language model, of which a quick bench leaves a value out.
    monkeypatch.setitem(SETTINGS, "news_encoder", lambda choice: tiny(choice.seed, rounds=2))
    monkeypatch.setitem(SETTINGS, "moon", unfound)
    finding = reference(bench, ["news_encoder", "moon"])
    ((default, mean),) = [one["points"] for one in finding.data["settings"]]
    assert (default["value"], mean["value"]) == (DEFAULT, SMALL)
    # Without what all share, strangers are farther.
    assert mean["within"][0] < 1 < mean["across"][0] > default["across"][0]
    assert finding.said[-1] == "**Not played**: `moon`."
    why = "**Not played**: setting moon: no model in sight: get one"
    assert finding.details == {"`moon`": [why]}
    nothing = reference(bench, ["moon"])
    assert (len(nothing.said), nothing.tables[0].rows) == (1, [])
