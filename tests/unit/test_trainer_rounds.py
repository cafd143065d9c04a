"""A trainer's rounds on real digits: where training starts, what is kept, what is asked twice."""

import dataclasses
import math

import numpy as np
import pytest
from support.device import DEVICE
from support.trainers import MEASURED

from ipfl_flower.market import Terms
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer import (
    FitRequest,
    Institution,
    RequestError,
    StoreError,
    Trainer,
    TrainingError,
)
from ipfl_flower.trainer.arrays import read_arrays
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.learner import Learner, Scores
from ipfl_flower.trainer.proximal import Sgd

THETA_0 = initial_model({"name": "digits"}, 0)


@pytest.fixture
def institution(tmp_path):
    task = load_task("digits", split="clusters", institution=1, institutions=6, samples=60, seed=1)
    return Institution(
        name="clinic",
        state_dir=tmp_path / "clinic",
        device=DEVICE,
        threads=1,
        leaving=False,
        terms=Terms(samples=60, cost=0.05, eagerness=6000.0),
        sgd=Sgd(iterations=20, batch_size=16, learning_rate=0.2),
        task=task,
    )


@pytest.fixture(scope="module")
def good_model():
    """Return a model that is far better than twenty steps on 60 samples can give."""
    task = load_task("digits", split="clusters", institution=0, institutions=1, samples=1700)
    teacher = Institution(
        name="teacher",
        state_dir=None,
        device=DEVICE,
        threads=1,
        leaving=False,
        terms=None,
        sgd=Sgd(iterations=600, batch_size=32, learning_rate=0.2),
        task=task,
    )
    learner = Learner(teacher)
    learner.put(THETA_0)
    learner.train(round_number=0)
    return learner.arrays()


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def distance(left, right):
    return math.sqrt(sum(float(((left[n] - right[n]) ** 2).sum()) for n in left))


def files(institution):
    paths = institution.state_dir.rglob("*")
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def first_round(institution):
    return Trainer(institution).fit(FitRequest(round=0, initial=THETA_0))


def test_a_newcomer_trains_alone_from_the_initial_model(institution):
    reply = first_round(institution)
    assert reply.terms == institution.terms
    assert {name: array.dtype for name, array in reply.arrays.items()} == {
        name: array.dtype for name, array in THETA_0.items()
    }
    assert 0 < distance(reply.arrays, THETA_0) < 10
    metrics = reply.metrics
    assert set(metrics) == {
        *("samples_train", "samples_validation", "samples_test", "fit_seconds", "train_loss"),
        *("validation_accuracy", "validation_loss", "test_accuracy", "test_loss"),
        *("best_validation_accuracy", "best_validation_loss", "best_test_accuracy"),
        *("best_test_loss", "best_round", "best_centre", "receipt_alarms", "samples_per_second"),
        *(("gpu_memory_bytes",) if DEVICE == "cuda" else ()),
    }
    drawn = 5 * 60  # 20 steps of 16 samples but for each fourth, which ends a pass over 60 with 12
    assert metrics["samples_per_second"] >= drawn / metrics["fit_seconds"]
    assert metrics["test_accuracy"] == metrics["best_test_accuracy"] > 0.2
    assert (metrics["samples_train"], metrics["samples_validation"]) == (60, 40)
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_model_sent_first_is_needed(institution):
    with pytest.raises(
        RequestError, match="clinic has no model yet, and round 4 brings no initial"
    ):
        Trainer(institution).fit(FitRequest(round=4))
    assert not institution.state_dir.exists()


def test_training_repeats_to_the_bit_and_differs_by_round(institution, tmp_path):
    twin = dataclasses.replace(institution, state_dir=tmp_path / "twin")
    later = dataclasses.replace(institution, state_dir=tmp_path / "later")
    reply = first_round(institution)
    assert same(reply.arrays, first_round(twin).arrays)
    other = Trainer(later).fit(FitRequest(round=1, initial=THETA_0))
    assert not same(reply.arrays, other.arrays)


def test_a_round_asked_twice_is_answered_from_disk(institution, monkeypatch):
    reply = first_round(institution)
    before = files(institution)
    again = Trainer(institution)
    monkeypatch.setattr(again._learner, "train", None)
    repeated = again.fit(FitRequest(round=0, initial=THETA_0))
    assert same(repeated.arrays, reply.arrays)
    assert repeated.metrics == reply.metrics
    assert files(institution) == before


def test_a_change_of_terms_and_leaving_reach_the_market_with_the_next_reply(institution):
    assert not first_round(institution).leaving
    dearer = Terms(samples=60, cost=9.0, eagerness=6000.0)
    changed = dataclasses.replace(institution, terms=dearer, leaving=True)
    for number in (0, 1):
        reply = Trainer(changed).fit(FitRequest(round=number))
        assert reply.terms == dearer
        assert reply.leaving


def test_a_round_that_is_over_is_refused(institution):
    first_round(institution)
    trainer = Trainer(institution)
    trainer.fit(FitRequest(round=3))
    with pytest.raises(RequestError, match="round 2 was asked for, but clinic has trained round 3"):
        trainer.fit(FitRequest(round=2))
    with pytest.raises(RequestError, match="new market needs an empty state_dir"):
        trainer.fit(FitRequest(round=2, train=False))


def test_without_a_centre_training_goes_on_from_the_own_model_after_a_restart(
    institution, tmp_path
):
    own = first_round(institution).arrays
    reply = Trainer(institution).fit(FitRequest(round=1, initial=THETA_0, start="centre"))
    twin = dataclasses.replace(institution, state_dir=tmp_path / "twin")
    expected = Trainer(twin).fit(FitRequest(round=1, initial=own))
    assert same(reply.arrays, expected.arrays)


def test_start_own_begins_at_the_own_model_and_start_centre_at_the_centre(institution, good_model):
    own = first_round(institution).arrays
    trainer = Trainer(institution)
    learner = trainer._learner
    starts = {}
    for start in ("own", "centre"):
        spy = {}
        real = learner.train

        def train(*, spy=spy, real=real, **others):
            spy["start"] = {name: array.copy() for name, array in learner.arrays().items()}
            spy["others"] = others
            return real(**others)

        learner.train = train
        trainer.fit(
            FitRequest(
                round=1 if start == "own" else 2, centre=good_model, coefficient=0.5, start=start
            )
        )
        learner.train = real
        starts[start] = spy
    assert same(starts["own"]["start"], own)
    assert same(starts["centre"]["start"], good_model)
    for spy in starts.values():
        assert same(spy["others"]["centre"], good_model)
        assert spy["others"]["coefficient"] == 0.5


def test_a_large_coefficient_holds_the_model_at_the_centre(institution, good_model, tmp_path):
    def trained(coefficient):
        place = dataclasses.replace(institution, state_dir=tmp_path / str(coefficient))
        first_round(place)
        request = FitRequest(round=1, centre=good_model, coefficient=coefficient)
        return distance(Trainer(place).fit(request).arrays, good_model)

    free, held, pinned = trained(0.0), trained(1.0), trained(1e9)
    assert free > 2 * held
    assert pinned < 1e-4


def test_a_better_centre_is_kept_and_outlives_worse_rounds(institution, good_model):
    first = first_round(institution).metrics
    trainer = Trainer(institution)
    reply = trainer.fit(FitRequest(round=1, centre=good_model))
    metrics = reply.metrics
    assert metrics["centre_validation_accuracy"] > 0.9 > first["validation_accuracy"]
    for name in ("kept_", "best_"):
        assert metrics[name + "centre"] == 1
        assert metrics[name + "round"] == 0
        assert metrics[name + "test_accuracy"] == metrics["centre_test_accuracy"]
    bad = {name: -array for name, array in good_model.items()}
    metrics = Trainer(institution).fit(FitRequest(round=2, centre=bad)).metrics
    assert metrics["kept_centre"] == 0
    assert metrics["kept_round"] == 1
    assert metrics["kept_validation_accuracy"] == reply.metrics["validation_accuracy"]
    assert metrics["best_round"] == 0
    kept = trainer._store.state().best
    assert same(read_arrays(institution.state_dir / kept.file), good_model)


def test_the_last_delivery_is_judged_without_training(institution, good_model, monkeypatch):
    own = first_round(institution)
    trainer = Trainer(institution)
    monkeypatch.setattr(trainer._learner, "train", None)
    request = FitRequest(round=1, centre=good_model, train=False)
    reply = trainer.fit(request)
    assert reply.arrays == {}
    assert reply.terms == institution.terms
    assert reply.metrics["kept_centre"] == reply.metrics["best_centre"] == 1
    assert "train_loss" not in reply.metrics
    before = files(institution)
    again = trainer.fit(request).metrics
    again.pop("fit_seconds")
    assert MEASURED & again.keys() == set()  # nothing was trained
    assert again.items() <= reply.metrics.items()
    assert files(institution) == before
    # The round trained before is still answered as it was.
    assert same(trainer.fit(FitRequest(round=0)).arrays, own.arrays)
    assert trainer.fit(FitRequest(round=0)).metrics == own.metrics


def test_the_last_delivery_without_a_centre_reports_the_best(institution):
    first = first_round(institution).metrics
    reply = Trainer(institution).fit(FitRequest(round=1, train=False))
    assert reply.metrics["best_test_accuracy"] == first["best_test_accuracy"]


@pytest.mark.parametrize(
    ("accuracy", "loss", "better"),
    [(0.6, 9.0, True), (0.4, 0.1, False), (0.5, 0.9, True), (0.5, 1.1, False), (0.5, 1.0, False)],
)
def test_validation_decides_and_the_loss_breaks_ties(accuracy, loss, better):
    # The test scores point the other way, and must not count.
    rival = Scores(0.5, 1.0, 0.5, 1.0)
    assert Scores(accuracy, loss, 0.0 if better else 1.0, 0.0).beats(rival) is better


@pytest.mark.parametrize("what", ["centre", "initial"])
def test_a_model_of_another_shape_is_refused_and_nothing_changes(institution, what):
    wrong = {**THETA_0, "0.bias": np.zeros(3, np.float32)}
    message = r"the .* sent to clinic doesn't fit its task: array '0\.bias' must be float32 \(64,\)"
    with pytest.raises(RequestError, match=message):
        Trainer(institution).fit(FitRequest(round=0, **{what: wrong}))
    assert not institution.state_dir.exists()


def test_a_centre_that_overflows_is_passed_over(institution):
    own = first_round(institution).arrays
    huge = {name: np.full_like(array, 1e30) for name, array in THETA_0.items()}
    reply = Trainer(institution).fit(
        FitRequest(round=1, centre=huge, coefficient=1.0, start="centre")
    )
    assert reply.metrics["centre_unusable"] == 1
    assert "centre_test_loss" not in reply.metrics
    assert distance(reply.arrays, own) < 10


@pytest.mark.parametrize("rate", [1e15, 1e30])
def test_divergence_names_the_knob_and_leaves_the_state(institution, rate):
    first_round(institution)
    before = files(institution)
    wild = Sgd(iterations=30, learning_rate=rate, momentum=0.9)
    trainer = Trainer(dataclasses.replace(institution, sgd=wild))
    with pytest.raises(
        TrainingError, match=r"diverged in round 1 .*: lower training.learning_rate"
    ):
        trainer.fit(FitRequest(round=1))
    assert files(institution) == before


def test_a_state_of_another_task_is_named(institution):
    first_round(institution)
    store = Trainer(institution)._store
    kept = store.state().trained
    with (institution.state_dir / kept.file).open("wb") as file:
        np.savez(file, w=np.zeros(3, np.float32))
    with pytest.raises(StoreError, match=r"isn't a model of this task .*: undo the change of"):
        Trainer(institution).fit(FitRequest(round=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"round": -1}, "round must be ≥ 0, is -1"),
        ({"round": 0, "coefficient": -0.1}, "coefficient must be finite and ≥ 0, is -0.1"),
        ({"round": 0, "coefficient": math.nan}, "coefficient must be finite and ≥ 0, is nan"),
        ({"round": 0, "start": "best"}, "start must be 'own' or 'centre', is 'best'"),
    ],
)
def test_a_wrong_request_is_refused(values, message):
    with pytest.raises(RequestError) as caught:
        FitRequest(**values)
    assert str(caught.value) == message
