"""The paper's studies, each on a market that takes a second or none."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.experiments import tiny

from ipfl_flower.experiment.attacks import ATTACKS
from ipfl_flower.experiment.cache import Cache
from ipfl_flower.experiment.definition import Choice, ExperimentError
from ipfl_flower.experiment.methods import METHODS
from ipfl_flower.experiment.play import PRESETS as PRESET_OF
from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.studies import attacks as attacks_module
from ipfl_flower.experiment.studies import clusters as clusters_module
from ipfl_flower.experiment.studies import inclusive as inclusive_module
from ipfl_flower.experiment.studies import scale as scale_module
from ipfl_flower.experiment.studies import server
from ipfl_flower.experiment.studies.ablation import ablation, boundary
from ipfl_flower.experiment.studies.attacks import attacked, attacks
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.economies import bought, economies, elsewhere
from ipfl_flower.experiment.studies.inclusive import inclusive
from ipfl_flower.experiment.studies.liars import (
    LIES,
    counterexample,
    lying,
    one_market,
    rules_of,
    summed,
    utilities_of,
)
from ipfl_flower.experiment.studies.reference import (
    DEFAULT,
    SMALL,
    VALUES,
    reference,
    within_and_across,
)
from ipfl_flower.experiment.studies.scale import message_bytes, scale
from ipfl_flower.experiment.studies.sensitivity import EVERYBODY, outcome, recorded, single
from ipfl_flower.experiment.studies.synthetic import ACROSS, WITHIN, Synthetic
from ipfl_flower.experiment.studies.trained_liars import lying_setting, trained
from ipfl_flower.experiment.studies.tuning import tuning
from ipfl_flower.experiment.studies.varying import KNOBS, candidates_of, choose, varied
from ipfl_flower.market import Rules, Terms, distances
from ipfl_flower.settings import PRESETS
from ipfl_flower.tasks import TaskDataError


@pytest.fixture
def bench(tmp_path):
    return Bench(Cache(tmp_path / "runs"), seeds=(0,), quick=True)


@pytest.fixture
def digits(monkeypatch):
    """Let hidden groups be of digits, which are read in no time."""

    def task(choice, *, test, **options):
        return {"name": "digits", "seed": choice.seed, **options}

    monkeypatch.setattr(clusters_module, "task", task)


# --- synthetic markets and scale


def test_synthetic_updates_are_as_alike_as_they_are_said_to_be():
    scene = Synthetic(institutions=9, groups=3, parameters=20_000, seed=1)
    apart = distances(scene.gram(), "cosine")
    groups = np.arange(9) % 3
    same = groups[:, None] == groups
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(1 - apart[same & off], WITHIN, atol=0.03)
    np.testing.assert_allclose(1 - apart[~same], ACROSS, atol=0.03)
    again = np.stack(list(scene.updates()))
    np.testing.assert_array_equal(again, np.stack(list(scene.updates())))
    other = np.stack(list(dataclasses.replace(scene, seed=2).updates()))
    assert not np.array_equal(again, other)


def test_synthetic_terms_have_the_papers_value_at_the_mean_size():
    terms = Synthetic(30, 3, 10, seed=0).terms(10.0, 1.0)
    mean = np.mean([one.samples for one in terms])
    assert {one.eagerness for one in terms} == {100 * mean}
    assert {one.cost for one in terms} == {1.0}


def test_a_servers_round_at_scale(tmp_path):
    took = server.play(Synthetic(12, 3, 2_000, seed=0), tmp_path)
    assert [(one["economics"], one["preset"]) for one in took["clearings"]] == list(
        itertools.product(("paper", "cheap"), ("paper", "recommended"))
    )
    for one in took["clearings"]:
        assert one["density"] == pytest.approx(one["edges"] / (12 * 11))
        assert 0 < one["buyers"] <= 12
        assert one["utility"] > 0
    cheap = {one["preset"]: one for one in took["clearings"] if one["economics"] == "cheap"}
    assert cheap["recommended"]["own_group"] == 1.0
    assert took["memory_peak"] >= took["memory_start"] > 0


def test_what_travels_is_a_model_and_little_else():
    small, large = message_bytes(1_000), message_bytes(3_000)
    for kind in ("reply", "centre"):
        assert 8_000 <= large[kind] - small[kind] <= 8_020
        assert 4_000 < small[kind] < 4_000 + 2_000
    assert large["empty"] == small["empty"] < 1_000


def test_scale_is_played_in_processes_of_its_own_and_kept(bench, monkeypatch):
    finding = scale(bench, institutions=(4, 8), parameters=500)
    assert [row[0] for row in finding.tables[0].rows] == ["4", "8"]
    assert bench.cpu_seconds > 0
    monkeypatch.setattr(scale_module.subprocess, "run", None)
    assert scale(bench, institutions=(4, 8), parameters=500).data == finding.data


def test_a_scale_that_fails_says_which(bench):
    with pytest.raises(ExperimentError, match="study scale, 0 institutions: ValueError"):
        scale(bench, institutions=(0,), parameters=500)


# --- liars


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
    liars = {seat.name for setting in settings for seat in setting.seats if seat.exaggerates}
    assert liars == {"group0-160"}
    other, liar = lying_setting(Choice(1, quick=True), "paper", ("samples", 2.0))
    assert other.seats[liar].name == "group1-160"
    assert other.seats[liar].exaggerates == {"samples": 2.0}


# --- sensitivity


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


# --- ablation


def sweep(*accuracies):
    points = [{"value": float(k), "accuracy": [a]} for k, a in enumerate(accuracies)]
    return {"points": points}


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.5, 0.7, 0.6, 0.5), (1.0, 0.7, 2.0)),
        ((0.5, 0.7, 0.6, 0.695), (1.0, 0.7, None)),
        ((0.5, 0.7, 0.695, 0.68), (1.0, 0.7, 3.0)),
        ((0.5, 0.6, 0.7), (2.0, 0.7, None)),
    ],
)
def test_the_boundary_is_where_it_degrades_for_good(accuracies, expected):
    assert boundary(sweep(*accuracies)) == expected


@pytest.mark.usefixtures("digits")
def test_ablation_says_what_validation_would_choose(bench, monkeypatch):
    monkeypatch.setattr("ipfl_flower.experiment.studies.ablation.WEIGHTS_QUICK", (0.5, 5.0))
    etas = {"paper": (0.5,), "recommended": (0.1,)}
    monkeypatch.setattr("ipfl_flower.experiment.studies.ablation.ETAS_QUICK", etas)
    finding = ablation(bench, rounds=1)
    assert [len(one["points"]) for one in finding.data["sweeps"]] == [2, 2, 1, 2, 2, 1]
    assert all("validation data would choose" in line for line in finding.said)
    assert "5 (preset)" in {row[0] for row in finding.tables[0].rows}


# --- measured from the mean


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
    assert finding.said[-1] == "`moon`: **not played**: setting moon: no model in sight: get one"
    nothing = reference(bench, ["moon"])
    assert (len(nothing.said), nothing.tables[0].rows) == (1, [])


# --- attacks and the inclusive market


def test_an_attackers_seat_is_the_one_that_is_empty_without_it():
    choice = Choice(4, quick=True)
    with_, without = attacked(choice, "ones", "cheap"), attacked(choice, None, "cheap")
    (villain,) = [seat for seat in with_.seats if seat.attack]
    assert villain.role == "attacker"
    assert tuple(seat for seat in with_.seats if not seat.attack) == without.seats
    assert len(without.seats) == 8
    assert villain.task["institution"] == 4


@pytest.mark.usefixtures("digits")
def test_attackers_earn_nothing_and_cost_nobody_accuracy(bench, monkeypatch):
    monkeypatch.setattr(attacks_module, "MARKETS", ("ipfl",))
    monkeypatch.setattr(attacks_module, "OTHERS", ("fedavg",))
    finding = attacks(bench, rounds=3, economies=("cheap",))
    plays = {(one["method"], one["attack"]): one for one in finding.data["plays"]}
    for attack in ATTACKS:
        assert plays["ipfl", attack]["earned"] == [0.0]
        assert plays["ipfl", attack]["share"] == [0.0]
        assert plays["ipfl", attack]["lost"][0] <= attacks_module.TOLERANCE
        # FedAvg takes what it gets: the comparison is one.
        assert plays["fedavg", attack]["share"][0] > 0.1
    assert plays["fedavg", "ones"]["lost"][0] > attacks_module.TOLERANCE
    assert "`ipfl`: the attacker never earns anything." in finding.said


@pytest.mark.usefixtures("digits")
def test_in_an_inclusive_market_everybody_plays_its_role(bench, monkeypatch):
    records = []
    play = bench.play
    monkeypatch.setattr(bench, "play", lambda *given: records.append(play(*given)) or records[-1])
    finding = inclusive(bench, rounds=2, economies=("cheap",))
    roles = {(one["market"], one["role"]): one for one in finding.data["roles"]}
    assert len(roles) == 8
    (record,) = [one for one in records if one["method"] == "ipfl"]
    names = [item["role"] for item in record["institutions"]]
    assert names == ["trader"] * 3 + ["buyer"] * 4 + ["seller"] * 4 + ["attacker"]
    for played in record["rounds"]:
        sold = {j for row in played["imports"] for j in row}
        assert sold
        assert not {names[j] for j in sold} & {"buyer", "attacker"}
        assert all(not row for i, row in enumerate(played["imports"]) if names[i] == "seller")
    # Sellers earn what buyers pay.
    assert roles["ipfl", "seller"]["net"][0] < 0 < roles["ipfl", "buyer"]["net"][0]
    assert [chart.name for chart in finding.charts] == ["inclusive-cheap"]
    assert tuple(line.name for line in finding.charts[0].lines) == inclusive_module.ROLES


# --- both economics


def test_both_economics_are_played_and_missing_data_is_said(bench, monkeypatch):
    def unfound(choice):
        raise TaskDataError("no moon in sight: fly there")

    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=2))
    monkeypatch.setitem(SETTINGS, "moon", unfound)
    finding = economies(bench, ["tiny", "moon"])
    plays = {(one["market"], one["economics"]): one for one in finding.data["plays"]}
    assert len(plays) == len(finding.tables[0].rows) == 4
    assert plays["ipfl", "cheap"]["utility"][0] > plays["ipfl", "paper"]["utility"][0]
    assert finding.said[-1] == "`moon`: **not played**: setting moon: no moon in sight: fly there"


def test_models_bought_are_counted_by_institution_and_round():
    assert bought({"rounds": [{"imports": [[1], [0, 2], []]}, {"imports": [[], [], []]}]}) == 0.5


def test_markets_are_played_at_the_economics_that_is_not_their_settings_own(bench, monkeypatch):
    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=1))
    monkeypatch.setattr(bench, "play", lambda setting, method: (setting.economics, method))
    assert list(elsewhere(bench, ["tiny"], ["ipfl", "ipfl-paper"])) == [
        ("paper", "ipfl"),
        ("paper", "ipfl-paper"),
    ]


# --- tuning


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
    failed = [line for line in finding.said if "**failed**" in line]
    assert len(failed) == 4
    assert failed[0].startswith("`tiny`: `fedprox` **failed** at μ = NaN: tiny, seed 0, fedprox: ")
    assert "tuned iPFL" in finding.said[0]
    assert any(line.startswith("`fedprox` gains nothing by tuning") for line in finding.said)
    assert finding.said[-1] == "`moon`: **not played**: setting moon: no moon in sight: fly there"
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


# --- what is kept


def test_what_studies_ask_for_is_kept_and_counted_once(bench):
    made = []

    def make():
        made.append(1)
        return [1, 2]

    assert bench.figures("moon", {"a": 1}, make) == bench.figures("moon", {"a": 1}, make) == [1, 2]
    assert len(made) == 1
    bench.figures("moon", {"a": 2}, make)
    assert len(made) == 2
    assert (
        len(
            list(
                Path(
                    bench.cache.path({"setting": {"name": "x", "seed": 0}, "method": "y"})
                ).parent.iterdir()
            )
        )
        == 2
    )
