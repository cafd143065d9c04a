"""A whole play: the market and other methods, judged and paid by the same rules."""

import json
from contextlib import closing
from math import sqrt

import numpy as np
import pytest
from support.experiments import silent, tiny

from ipfl_flower.experiment.attacks import ATTACKS
from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.economics import books, distances_of
from ipfl_flower.experiment.methods import METHODS, Local
from ipfl_flower.experiment.methods.arithmetic import NonFiniteModelError
from ipfl_flower.experiment.methods.base import Method, Order, Played
from ipfl_flower.experiment.oracle import Oracle
from ipfl_flower.experiment.play import market_settings, play_market, play_method
from ipfl_flower.experiment.record import make_record, summary
from ipfl_flower.experiment.runner import ALL_METHODS, run_one
from ipfl_flower.experiment.sites import GridSites
from ipfl_flower.experiment.world import World
from ipfl_flower.ledger import Ledger
from ipfl_flower.market import MICRO, Rules, Terms
from ipfl_flower.models import Reference


class Everybody(Method):
    """Trains alone, and says that it bought of everybody."""

    name = "everybody"
    source = "this test"

    def play(self, number):
        trained = self.sites.train(number, [Order(self.sites.initial)] * 4)
        return Played(trained, trained, ~np.eye(4, dtype=bool))


def test_books_by_hand():
    # √K = 100, N = 100 each: G of one import is 100/10 − 100/√200, of two 100/10 − 100/√300.
    terms = [Terms(100, 0.5, 1e4), Terms(100, 0.25, 1e4), Terms(100, 1.0, 0.0)]
    apart = np.array([[0, 0.1, 0.2], [0.1, 0, 0.4], [0.2, 0.4, 0]])
    imports = np.array([[0, 1, 1], [0, 0, 1], [1, 0, 0]], dtype=bool)
    one, two = 10 - 100 / sqrt(200), 10 - 100 / sqrt(300)
    account = books(terms, apart, imports, Rules(distance_weight=2.0))
    np.testing.assert_allclose(account.gains, [two, one, 0.0])
    np.testing.assert_allclose(account.costs, [0.5, 0.25, 2.0])
    np.testing.assert_allclose(account.utilities, [two - 0.5, one - 0.25, -2.0])
    np.testing.assert_array_equal(account.volumes, 100.0 * imports)
    # Prices c_j + λ d_ij: 0.25 + 0.2 and 1 + 0.4; 1 + 0.8; 0.5 + 0 (who can't buy is not compared).
    assert account.welfare == pytest.approx(two - 1.85 + one - 1.8 - 0.5)
    paid = books(terms, apart, imports, Rules(), np.array([3 * MICRO, -MICRO, -2 * MICRO]))
    np.testing.assert_allclose(paid.utilities, account.utilities - [3, -1, -2])
    assert paid.utilities.mean() == pytest.approx(account.utilities.mean())


def test_books_cap_volumes_as_the_market_does():
    terms = [Terms(10, 0.0, 1e4), Terms(1000, 0.0, 1e4)]
    account = books(terms, np.zeros((2, 2)), ~np.eye(2, dtype=bool), Rules(max_volume_ratio=3.0))
    np.testing.assert_array_equal(account.volumes, [[0, 30], [10, 0]])


def test_distances_are_the_markets(tmp_path):
    world = World.of(tiny())
    rng = np.random.default_rng(3)
    size = world.layout.size
    origin = world.layout.flatten(world.initial).view(np.float32)
    updates = rng.normal(size=(3, size)).astype(np.float32)
    updates[2] = 0
    with closing(Reference(world.layout, world.initial, tmp_path)) as reference:
        found = distances_of(origin + updates, reference, tmp_path, "cosine", "initial")
    cosine = updates[0] @ updates[1] / np.linalg.norm(updates[0]) / np.linalg.norm(updates[1])
    assert found[0, 1] == pytest.approx(1 - cosine, abs=1e-5)
    assert np.isnan(found[2]).all()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_the_market_is_read_as_its_ledger_and_its_trainers_have_it(tmp_path, preset):
    world = World.of(tiny())
    told = []
    play = play_market(world, preset, tmp_path, told.append)
    assert told == [0, 1, 2]
    record = make_record(world, "ipfl", play, local_trainings=1)
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        assert ledger.verify() == []
        assert ledger.head() == record["ledger"]["head"]
        settled = [ledger.settlement(number) for number in range(3)]
        best = ledger.acknowledgements()
        names = [institution.name for institution in ledger.institutions()]
        balances = [ledger.statement(name).net / MICRO for name in names]
    assert names == [seat.name for seat in world.setting.seats]
    assert play.rounds[-1].imports.any()
    for settlement, played in zip(settled, play.rounds, strict=True):
        clearing = settlement.clearing
        np.testing.assert_array_equal(played.imports, clearing.imports)
        np.testing.assert_array_equal(played.books.gains, clearing.gains)
        np.testing.assert_array_equal(played.books.utilities, clearing.utilities)
    for i, institution in enumerate(record["institutions"]):
        # The trainer has chosen the same model by itself.
        assert institution["test_accuracy"] == best[i]["best_test_accuracy"]
        assert institution["validation_accuracy"] == best[i]["best_validation_accuracy"]
        assert institution["round"] == best[i]["best_round"]
        assert institution["net"] == pytest.approx(balances[i], abs=1e-5)
    for settlement, kept in zip(settled, record["rounds"], strict=True):
        np.testing.assert_allclose(kept["distances"], settlement.distances, rtol=1e-5)
    assert sum(item["net"] for item in record["institutions"]) == pytest.approx(0, abs=1e-4)


def test_what_is_reported_is_chosen_by_validation_data(tmp_path):
    world = World.of(tiny(rounds=4))
    play = play_method(world, Local, tmp_path, silent)
    record = make_record(world, "local", play, local_trainings=1)
    for i, institution in enumerate(record["institutions"]):
        judged = [r.judged[i] for r in play.rounds]
        chosen = judged[institution["round"]]
        assert chosen.validation_accuracy == max(item.validation_accuracy for item in judged)
        assert institution["test_accuracy"] == chosen.test_accuracy
        assert institution["last_test_accuracy"] == judged[-1].test_accuracy


def test_a_method_without_money_pays_its_costs_and_nothing_else(tmp_path):
    world = World.of(tiny(rounds=2))
    play = play_method(world, Everybody, tmp_path, silent)
    record = make_record(world, "everybody", play, local_trainings=1)
    assert record["bought"]["own_group"] is not None
    for played in play.rounds:
        np.testing.assert_allclose(played.books.costs, 3 * 0.05)
        np.testing.assert_allclose(played.books.utilities, played.books.gains - 3 * 0.05)
    expected = 2 * play.rounds[0].books.utilities
    found = [item["utility"] for item in record["institutions"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert summary(record)["utility"] == pytest.approx(np.mean(expected), rel=1e-4)
    # Own group: of each one's three sellers, one; volumes 30 to 60.
    volumes = play.rounds[0].books.volumes
    own = volumes[[0, 1, 2, 3], [2, 3, 0, 1]].sum() / volumes.sum()
    assert record["bought"]["own_group"] == pytest.approx(own)


def test_noise_counts_as_a_seller_and_not_as_a_client(tmp_path):
    seats = {3: {"role": "noise", "random_labels": True, "group": None}}
    world = World.of(tiny(rounds=1, seats=seats))
    record = make_record(
        world, "everybody", play_method(world, Everybody, tmp_path, silent), local_trainings=1
    )
    accuracies = [item["test_accuracy"] for item in record["institutions"]]
    assert summary(record)["accuracy"] == pytest.approx(np.mean(accuracies[:3]))
    assert record["bought"]["dishonest"] == pytest.approx(180 / (2 * 30 + 2 * 40 + 2 * 50 + 180))


def test_utilities_are_those_of_the_truth_not_of_what_was_said(tmp_path):
    liar = {"exaggerates": {"cost": 1.5}}
    world = World.of(tiny(rounds=2, seats={0: liar}))
    play = play_market(world, "recommended", tmp_path, silent)
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        for number, played in enumerate(play.rounds):
            clearing = ledger.settlement(number).clearing
            sales = clearing.imports.sum(axis=0)
            saved = np.array([0.5 * 0.05 * sales[0], 0, 0, 0])
            np.testing.assert_allclose(played.books.utilities, clearing.utilities + saved)
    assert sum(played.imports[:, 0].sum() for played in play.rounds) > 0
    seat = make_record(world, "ipfl", play, local_trainings=1)["institutions"][0]
    assert (seat["cost"], seat["reported"]["cost"]) == (0.05, pytest.approx(0.075))
    assert seat["budget"] is None


def test_the_oracle_averages_inside_the_groups(tmp_path):
    world = World.of(tiny(rounds=1))
    played = {}

    class Spied(Oracle):
        def play(self, number):
            played[number] = super().play(number)
            return played[number]

    play = play_method(
        world, lambda sites: Spied(sites, sites.groups, sites.truth), tmp_path, silent
    )
    models, trained = played[0].models, played[0].trained
    # Institutions 0 and 2 with 30 and 50 samples, 1 and 3 with 40 and 60.
    np.testing.assert_allclose(models[0], (3 * trained[0] + 5 * trained[2]) / 8, atol=1e-6)
    np.testing.assert_allclose(models[3], (4 * trained[1] + 6 * trained[3]) / 10, atol=1e-6)
    np.testing.assert_array_equal(models[0], models[2])
    expected = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(play.rounds[0].imports, expected)


def test_settings_of_a_market_come_from_the_setting(tmp_path):
    world = World.of(tiny(market={"paper": {"distance-weight": 7.0, "eta": 5.0}}))
    paper = market_settings(world, "paper", tmp_path)
    assert (paper.distance_weight, paper.eta, paper.rounds, paper.quorum) == (7.0, 5.0, 3, 4)
    assert market_settings(world, "recommended", tmp_path).distance_weight == 5.0


@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_method_plays_and_repeats_itself(method):
    setting = tiny(rounds=2)
    first, second = (run_one(lambda: World.of(setting), setting, method, silent) for _ in range(2))
    for record in (first, second):
        del record["seconds"], record["cpu_seconds"]
    # Money and graph, accuracies, choices and the ledger's head: everything but the time it took.
    head = first.pop("ledger"), second.pop("ledger")
    assert first == second
    assert head[0].get("rounds") == head[1].get("rounds")
    json.dumps(first, allow_nan=False)
    assert first["method"] == method
    assert first["local_trainings"] == getattr(METHODS.get(method), "local_trainings", 1)
    assert len(first["rounds"]) == 2


def test_a_world_is_not_changed_by_what_is_played_on_it():
    setting = tiny(rounds=2)
    world = World.of(setting)
    names = ("ipfl", "local", "ipfl", "local")
    records = [run_one(lambda: world, setting, name, silent) for name in names]
    for name in ("institutions", "rounds"):
        assert records[0][name] == records[2][name]
        assert records[1][name] == records[3][name]


def test_the_oracle_is_not_lied_to():
    setting, liar = (
        tiny(rounds=1, seats=seats) for seats in ({}, {0: {"exaggerates": {"samples": 3.0}}})
    )
    honest, lied_to = (run_one(lambda: World.of(s), s, "oracle", silent) for s in (setting, liar))  # noqa: B023
    assert honest["rounds"][0]["test_accuracy"] == lied_to["rounds"][0]["test_accuracy"]
    sites = GridSites(World.of(tiny(seats={1: {"attack": "gaussian"}})))
    sites._alter[1] = lambda arrays, number: {n: a * np.nan for n, a in arrays.items()}
    with pytest.raises(NonFiniteModelError, match=r"round 0: the models of institutions \[1\]"):
        Oracle(sites, sites.groups, sites.truth).play(0)


def test_two_models_need_a_task_that_shares_all_of_them(monkeypatch):
    setting = tiny(rounds=1)

    def half(self, model):
        return [name for name, _ in model.named_parameters()][:2]

    monkeypatch.setattr("ipfl_flower.tasks.digits.Digits.shareable", half)
    with pytest.raises(
        ExperimentError, match=r"^tiny, seed 0, ditto: the method trains two models"
    ):
        run_one(lambda: World.of(setting), setting, "ditto", silent)
    assert run_one(lambda: World.of(setting), setting, "local", silent)["method"] == "local"


def test_errors_of_settings_and_of_models_are_an_experiments(monkeypatch):
    wrong = tiny(market={"recommended": {"eta": -1.0}})
    with pytest.raises(ExperimentError, match=r"^tiny, seed 0, ipfl: .*eta"):
        run_one(lambda: World.of(wrong), wrong, "ipfl", silent)
    attacked = tiny(seats={1: {"attack": "spoiled"}})
    monkeypatch.setitem(ATTACKS, "spoiled", lambda model, rng: model * np.float32(np.nan))
    with pytest.raises(ExperimentError, match=r"^tiny, seed 0, fedavg: round 0: the models of"):
        run_one(lambda: World.of(attacked), attacked, "fedavg", silent)


def test_an_error_names_setting_seed_and_method():
    setting = tiny(seed=4, options={"local": {"speed": 3}})
    with pytest.raises(ExperimentError, match=r"^tiny, seed 4, local: .*speed"):
        run_one(lambda: World.of(setting), setting, "local", silent)
    with pytest.raises(ExperimentError, match="method 'magic' is not known: choose from ipfl, "):
        run_one(lambda: World.of(setting), setting, "magic", silent)


@pytest.mark.parametrize("method", ["ipfl", "fedavg", "fedavg-ft", "ditto"])
def test_every_method_chooses_between_its_own_and_the_trained_model_alike(method):
    setting = tiny(rounds=4)
    record = run_one(lambda: World.of(setting), setting, method, silent)
    sums = {"own": [], "better": []}
    for i, item in enumerate(record["institutions"]):
        best = []
        for played in record["rounds"]:
            two = [
                (played[f"{of}validation_accuracy"][i], played[f"{of}test_accuracy"][i])
                for of in ("", "trained_")
            ]
            chosen = played["better_validation_accuracy"][i], played["better_test_accuracy"][i]
            assert chosen in two
            assert chosen[0] == max(two)[0]
            best.append(chosen)
        assert best[item["better_round"]][0] == max(best)[0]
        assert item["better_test_accuracy"] == best[item["better_round"]][1]
        sums["own"].append(item["test_accuracy"])
        sums["better"].append(item["better_test_accuracy"])
    figures = summary(record)
    assert figures["accuracy"] == pytest.approx(np.mean(sums["own"]))
    assert figures["better"] == pytest.approx(np.mean(sums["better"]))
    # Two models a round, or one where the method's own is the trained one.
    assert record["validation_looks"] == (4 if method == "fedavg-ft" else 8)
    if method in ("ipfl", "fedavg-ft"):
        assert sums["own"] == sums["better"]
    centres = [played["centre_test_accuracy"] for played in record["rounds"]]
    assert (centres != [[None] * 4] * 4) == (method == "ipfl")


def test_payments_cancel_in_the_mean_over_all_alone():
    noise = {3: {"role": "noise", "random_labels": True, "eagerness": 0.0}}
    setting = tiny(rounds=2, seats=noise, market={"recommended": {"distance-weight": 0.0}})
    record = run_one(lambda: World.of(setting), setting, "ipfl", silent)
    people = record["institutions"]
    assert people[3]["net"] < 0  # noise was bought
    unpaid = [item["utility"] + item["net"] for item in people]
    figures = summary(record)
    assert figures["utility_all"] == pytest.approx(np.mean(unpaid), abs=1e-3)
    assert figures["utility"] == pytest.approx(np.mean([p["utility"] for p in people[:3]]))
    assert figures["utility"] < np.mean(unpaid[:3]) - 0.01
