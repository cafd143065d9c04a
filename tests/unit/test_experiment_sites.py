"""Institutions behind the in-process Grid: the same training, whoever asks for it."""

import dataclasses

import numpy as np
import pytest
import torch
from support.experiments import silent, tiny

from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.methods.base import Order
from ipfl_flower.experiment.play import play_market
from ipfl_flower.experiment.runner import run_one
from ipfl_flower.experiment.sites import GridSites, as_arrays, as_vector
from ipfl_flower.experiment.world import RandomLabels, World
from ipfl_flower.ledger import Ledger
from ipfl_flower.models.layout import model_digest
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer.proximal import Sgd


def digests(world, models):
    return tuple(model_digest(world.layout, as_arrays(world.layout, model)) for model in models)


def test_training_alone_is_what_a_market_without_trade_trains_bit_for_bit(tmp_path):
    dear = {i: {"cost": 1e9} for i in range(4)}
    world = World.of(tiny(seats=dear))
    play_market(world, "recommended", tmp_path, silent)
    sites = GridSites(world)
    models = np.tile(sites.initial, (4, 1))
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        for number in range(3):
            models = sites.train(number, [Order(model) for model in models])
            assert digests(world, models) == ledger.settlement(number).model_digests


def test_the_first_round_of_a_market_that_trades_is_training_alone_too(tmp_path):
    world = World.of(tiny(rounds=2))
    played = play_market(world, "recommended", tmp_path, silent)
    assert played.rounds[0].imports.any()
    sites = GridSites(world)
    models = sites.train(0, [Order(sites.initial)] * 4)
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        assert digests(world, models) == ledger.settlement(0).model_digests
        assert digests(world, models) != ledger.settlement(1).model_digests


def test_start_centre_and_coefficient_arrive():
    world = World.of(tiny())
    sites = GridSites(world)
    centre = sites.initial + np.float32(0.5)
    starts = [sites.initial * np.float32(1 + i) for i in range(4)]
    models = sites.train(5, [Order(start, centre, 0.25) for start in starts])
    for i, learner in enumerate(world.learners):
        learner.put(as_arrays(world.layout, starts[i]))
        learner.train(round_number=5, centre=as_arrays(world.layout, centre), coefficient=0.25)
        np.testing.assert_array_equal(models[i], as_vector(world.layout, learner.arrays()))


def test_judging_many_models_gives_each_its_own_scores():
    world = World.of(tiny())
    sites = GridSites(world)
    trained = sites.train(0, [Order(sites.initial)] * 4)
    # More than fit the metrics of one reply, and another number for each institution.
    asked = [[trained[k % 4] for k in range(17 + i)] for i in range(4)]
    judged = sites.judge(asked)
    assert [len(mine) for mine in judged] == [17, 18, 19, 20]
    for i, learner in enumerate(world.learners):
        for k in range(4):
            learner.put(as_arrays(world.layout, trained[k]))
            scores = dataclasses.asdict(learner.scores())
            assert dataclasses.asdict(judged[i][k]) == scores
            assert dataclasses.asdict(judged[i][k + 12]) == scores


def test_a_model_whose_loss_is_not_finite_is_never_right():
    sites = GridSites(World.of(tiny()))
    huge = np.full_like(sites.initial, 1e38)
    worst = sites.judge([[huge], [], [], []])[0][0]
    assert worst.test_accuracy == worst.validation_accuracy == 0.0
    assert worst.test_loss == worst.validation_loss == np.inf


def test_who_fails_is_named_with_the_round(tmp_path):
    wild = tiny(sgd=Sgd(iterations=5, learning_rate=1e30))
    world = World.of(wild)
    sites = GridSites(world)
    with pytest.raises(ExperimentError, match=r"round 4: institution-0: .*diverged in round 4"):
        sites.train(4, [Order(sites.initial)] * 4)
    with pytest.raises(ExperimentError, match="training diverged in round 0"):
        play_market(world, "recommended", tmp_path, silent)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("sign_flip", lambda honest: -honest),
        ("ones", np.ones_like),
    ],
)
def test_an_attacker_sends_something_else_in_every_method(tmp_path, attack, expected):
    honest = GridSites(World.of(tiny()))
    plain = honest.train(0, [Order(honest.initial)] * 4)
    world = World.of(tiny(rounds=1, seats={2: {"attack": attack, "role": "attacker"}}))
    sent = GridSites(world).train(0, [Order(honest.initial)] * 4)
    plain[2] = expected(plain[2])
    np.testing.assert_array_equal(sent, plain)
    play_market(world, "recommended", tmp_path, silent)
    with Ledger.open(tmp_path / "ledger.db", create=False) as ledger:
        assert ledger.settlement(0).model_digests == digests(world, plain)


FLIPS = {2: {"attack": "sign_flip", "role": "attacker"}}


def test_an_attacker_trains_on_from_its_honest_model_and_is_judged_by_it():
    honest, attacked = (GridSites(World.of(tiny(seats=seats))) for seats in ({}, FLIPS))
    models, sent = (s.train(0, [Order(s.initial)] * 4) for s in (honest, attacked))
    for number in (1, 2):
        assert honest.judge([[model] for model in models]) == attacked.judge([[s] for s in sent])
        models = honest.train(number, [Order(model) for model in models])
        sent = attacked.train(number, [Order(model) for model in sent])
        np.testing.assert_array_equal(sent[2], -models[2])
        np.testing.assert_array_equal(sent[[0, 1, 3]], models[[0, 1, 3]])
    # Another's model is the model that it is, also for the attacker.
    assert attacked.judge([[], [], [sent[0]], []]) == honest.judge([[], [], [models[0]], []])


def judged(method, seats, rounds=2):
    setting = tiny(seats=seats, rounds=rounds)
    return run_one(lambda: World.of(setting), setting, method, silent)["rounds"]


@pytest.mark.parametrize(("method", "same"), [("local", 3), ("ditto", 1), ("fedavg-ft", 1)])
def test_what_an_attacker_keeps_is_not_altered(method, same):
    # Alone it never meets what was sent; where models are averaged it does after a round.
    plain, attacked = (judged(method, seats, rounds=3) for seats in ({}, FLIPS))
    for mine, theirs in zip(plain[:same], attacked[:same], strict=True):
        assert mine["test_accuracy"] == theirs["test_accuracy"]
    assert (plain == attacked) == (method == "local")


def test_an_attacker_of_fedamp_is_judged_by_what_it_trained():
    alone = {"fedamp": {"self_weight": 1.0, "weight": 0.0}}  # nobody hears anybody
    found = []
    for seats in ({}, FLIPS):
        setting = tiny(seats=seats, options=alone)
        found.append(run_one(lambda: World.of(setting), setting, "fedamp", silent))  # noqa: B023
    for mine, theirs in zip(*(record["rounds"] for record in found), strict=True):
        assert mine["test_accuracy"] == theirs["test_accuracy"]
        assert mine["validation_accuracy"] == theirs["validation_accuracy"]


@pytest.mark.parametrize("attack", ["shuffle", "gaussian"])
def test_random_attacks_are_the_same_every_time_and_new_every_round(attack):
    world = World.of(tiny(seats={1: {"attack": attack}}))
    sites = GridSites(world)
    first, again, later = (
        sites.train(number, [Order(sites.initial)] * 4)[1] for number in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)
    honest = GridSites(World.of(tiny())).train(0, [Order(sites.initial)] * 4)[1]
    assert not np.array_equal(first, honest)
    assert np.isclose(first.std(), honest.std(), rtol=0.05)


def test_an_unknown_attack_is_named():
    with pytest.raises(ExperimentError, match="attack 'bribe' of institution-1 is not known"):
        GridSites(World.of(tiny(seats={1: {"attack": "bribe"}})))


def test_random_labels_are_the_same_labels_on_other_samples(monkeypatch):
    options = {"split": "clusters", "institution": 0, "institutions": 2, "samples": 200}
    task = load_task("digits", **options)
    noise = RandomLabels(load_task("digits", **options)).data()
    wrapped = RandomLabels(task)
    assert wrapped.stand_in() == task.stand_in()
    monkeypatch.setattr(type(task), "stand_in", lambda self: True)
    monkeypatch.setattr(type(task), "judged_at_once", 7)
    assert RandomLabels(task).stand_in()
    assert RandomLabels(task).judged_at_once == 7
    for part in ("train", "validation", "test"):
        true, dealt = getattr(task.data(), part), getattr(noise, part)
        assert torch.equal(true.inputs, dealt.inputs)
        assert not torch.equal(true.labels, dealt.labels)
        assert torch.equal(true.labels.sort().values, dealt.labels.sort().values)


def test_one_eagerness_for_all_makes_v_ten_at_the_mean_honest_size():
    world = World.of(tiny(seats={3: {"role": "noise", "random_labels": True}}))
    assert {terms.eagerness for terms in world.truth} == {100 * (30 + 40 + 50) / 3}
    assert {terms.cost for terms in world.truth} == {0.05}
    assert list(world.honest) == [True, True, True, False]
    paper = World.of(tiny(economics="paper"))
    assert {terms.cost for terms in paper.truth} == {1.0}


def test_a_liar_reports_more_than_the_truth():
    world = World.of(tiny(seats={1: {"exaggerates": {"samples": 2.0, "cost": 3.0}}}))
    assert (world.truth[1].samples, world.terms[1].samples) == (40, 80)
    assert world.terms[1].cost == pytest.approx(0.15)
    assert list(GridSites(world).samples) == [30, 80, 50, 60]
    assert world.terms[0] == world.truth[0]


def test_images_are_read_once_for_all_institutions(monkeypatch):
    from ipfl_flower.tasks import digits  # noqa: PLC0415

    reads = []
    read = digits.read_digits
    monkeypatch.setattr(digits, "read_digits", lambda path: reads.append(path) or read(path))
    World.of(tiny())
    assert len(reads) == 1
