"""Methods are tuned by validation data alone."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import studies
from support.experiments import tiny
from support.studies import judged

from ipfl_flower.experiment.methods import METHODS
from ipfl_flower.experiment.play import PRESETS as PRESET_OF
from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.studies.tuning import tuning
from ipfl_flower.experiment.studies.varying import KNOBS, candidates_of, choose, varied
from ipfl_flower.settings import PRESETS
from ipfl_flower.tasks import TaskDataError

bench = studies.bench


def chosen_of(**records):
    """Choose among records by name, the first of which is the default's."""
    return choose(
        [
            one
            for k, (name, record) in enumerate(records.items())
            for one in candidates_of(record, name, default=k == 0)
        ]
    )


@given(
    validations=st.lists(st.sampled_from([0.5, 0.6, 0.7]), min_size=2, max_size=4),
    data=st.data(),
)
def test_a_value_is_chosen_by_validation_data_alone(validations, data):
    def chosen():
        tests = data.draw(st.lists(shares, min_size=len(validations), max_size=len(validations)))
        records = {
            f"value {k}": judged(*both, noise=data.draw(shares))
            for k, both in enumerate(zip(validations, tests, strict=True))
        }
        found = chosen_of(**records)
        assert found.test == tests[int(found.value.split()[1])]
        return found.value

    shares = st.floats(0.0, 1.0)
    assert chosen() == chosen() == f"value {np.argmax(validations)}"


def test_where_validation_and_test_data_disagree_validation_data_is_followed():
    found = chosen_of(first=judged(0.6, 0.9), second=judged(0.7, 0.5))
    assert (found.value, found.default, found.validation, found.test) == ("second", False, 0.7, 0.5)
    # Of equals the default.
    found = chosen_of(first=judged(0.7, 0.5), second=judged(0.7, 0.9))
    assert (found.value, found.default) == ("first", True)


def test_a_methods_model_is_chosen_by_validation_data_too():
    found = chosen_of(first=judged(0.6, 0.9, better=0.65, better_test=0.4))
    assert (found.model, found.test) == ("better", 0.4)
    found = chosen_of(first=judged(0.6, 0.5, better=0.6, better_test=0.9))
    assert (found.model, found.test) == ("own", 0.5)
    assert choose([]) is None


@pytest.mark.parametrize("method", sorted(KNOBS))
def test_a_grid_begins_with_the_default_and_has_values_that_the_method_takes(method):
    grid = KNOBS[method]
    (default, nothing), *others = grid.items()
    assert nothing == {}
    assert 3 <= len(grid) <= 4
    setting = tiny()
    assert varied(setting, method, nothing) == setting
    there = (
        PRESETS[PRESET_OF[method]] if method in PRESET_OF else vars(METHODS[method].options_type())
    )
    for value, changes in others:
        assert {name: there[name] for name in changes} != changes, value
        changed = varied(setting, method, changes)
        assert (changed.market or changed.options) == {PRESET_OF.get(method, method): changes}
        kept = dataclasses.replace(
            setting, market={"recommended": {"eta": 0.2}}, options={"ditto": {"other": 1}}
        )
        changed = varied(kept, method, changes)
        assert changed.market["recommended"]["eta"] == 0.2
        assert changed.options["ditto"]["other"] == 1
    # What it is called is what it is.
    known = {"fedamp": 10.0}.get(method, there[next(iter(others[0][1]))])
    assert method == "cfl" or default.endswith(f" = {known:g}")


def test_the_default_that_fedamp_leaves_open_is_the_one_in_its_grid(bench):
    setting = tiny(rounds=2)
    same = varied(setting, "fedamp", {"sigma": 10.0})
    other = varied(setting, "fedamp", {"sigma": 1.0})
    named, open_, flat = (
        bench.play(one, "fedamp")["rounds"][-1]["validation_accuracy"]
        for one in (same, setting, other)
    )
    assert named == open_ != flat


def test_methods_are_tuned_and_one_that_fails_at_a_value_is_said_to(bench, monkeypatch):
    def unfound(choice):
        raise TaskDataError("no moon in sight: fly there")

    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=2))
    monkeypatch.setitem(SETTINGS, "moon", unfound)
    played = ("ipfl", "local", "fedprox", "ditto", "oracle")
    monkeypatch.setattr("ipfl_flower.experiment.studies.tuning.PLAYED", played)
    knobs = {
        "ipfl": {"λ = 5": {}, "λ = 0": {"distance-weight": 0.0}},
        "fedprox": {"μ = 0.01": {}, "μ = NaN": {"mu": np.nan}},
        "ditto": {"λ = NaN": {"weight": np.nan}},
    }
    two = dataclasses.replace(bench, seeds=(0, 1))
    finding = tuning(two, ["tiny", "moon"], knobs)
    found = {one["method"]: one for one in finding.data["tuned"]}
    assert [len(found[method]["candidates"]) for method in played] == [2] * 5
    assert [len(seed) for seed in found["ipfl"]["candidates"]] == [4, 4]
    assert [one["value"] for one in found["fedprox"]["chosen"]] == ["μ = 0.01"] * 2
    assert found["ditto"]["chosen"] == [None, None]
    cells = {row[0]: row for row in finding.tables[1].rows}
    assert cells["fedprox"][4] == "μ = 0.01 (default); μ = 0.01 (default)"
    assert cells["fedprox"][1].strip("*") == cells["fedprox"][2]
    assert cells["ditto"][1:4] == ["**failed**", "**failed**", "–"]
    assert cells["local"][4] == "–; –"
    assert "ditto" not in finding.tables[0].columns
    failed = finding.details["What failed"]
    assert len(failed) == 4
    assert failed[0].startswith("`tiny`: `fedprox` **failed** at μ = NaN: tiny, seed 0, fedprox: ")
    verdict, *rest = finding.said
    assert verdict.startswith("`tiny`: ")
    assert "tuned iPFL" in verdict
    assert rest == ["**Failed** at a value: `fedprox`, `ditto`.", "**Not played**: `moon`."]
    gains = finding.details["What tuning brings"]
    assert [line.split()[0].strip(":") for line in gains] == ["`ipfl`", "`fedprox`", "`ditto`"]
    assert gains[1].startswith("`fedprox` gains nothing by tuning")
    (why,) = finding.details["`moon`"]
    assert why == "**Not played**: setting moon: no moon in sight: fly there"
    assert "λ = 5 (default); λ = 0" in finding.tables[-1].rows[0]


@pytest.mark.parametrize(("quick", "settings", "values"), [(True, 2, 3), (False, 4, 4)])
def test_a_quick_bench_tunes_less(bench, monkeypatch, quick, settings, values):
    played = []

    def play(setting, method):
        played.append((setting.name, method, repr((setting.market, setting.options))))
        return judged(0.5, 0.5)

    bench.quick = quick
    monkeypatch.setattr(bench, "play", play)
    tuning(bench)
    assert len(set(played)) == len(played)
    by_method = Counter(method for _, method, _ in played)
    once = {"local", "fedavg", "fedavg-ft", "oracle"}
    assert by_method == dict.fromkeys(once, settings) | dict.fromkeys(KNOBS, settings * values)
    # A default is the setting itself, which other studies play, too.
    unchanged = Counter(method for _, method, changes in played if changes == "({}, {})")
    assert unchanged == dict.fromkeys(by_method, settings)


def test_settings_that_are_named_are_those_that_are_tuned(bench, monkeypatch):
    economics = {}

    def play(setting, method):
        economics[method] = setting.economics
        return judged(0.5, 0.5)

    monkeypatch.setattr(bench, "play", play)
    bench.named = ("fashion_skew",)
    assert {one["setting"] for one in tuning(bench).data["tuned"]} == {"fashion_skew"}
    assert (economics["ipfl"], economics["local"]) == ("cheap", "paper")
