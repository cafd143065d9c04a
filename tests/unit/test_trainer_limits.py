"""What an institution does not let its trainer do, whatever a message says."""

import dataclasses

import numpy as np
import pytest
from support.device import DEVICE

from ipfl_flower.market import Terms
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer import FitRequest, Institution, InstitutionError, Trainer, TrainingError
from ipfl_flower.trainer import limits as limits_module
from ipfl_flower.trainer.errors import LimitError
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.limits import DAY_S, Limits
from ipfl_flower.trainer.proximal import Sgd
from ipfl_flower.trainer.store import Store

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


def limited(institution, name="", **limits):
    folder = institution.state_dir.with_name(name) if name else institution.state_dir
    return dataclasses.replace(institution, state_dir=folder, limits=Limits(**limits))


def fit(institution, number=0, **request):
    return Trainer(institution).fit(FitRequest(round=number, initial=THETA_0, **request))


def update(arrays):
    return np.concatenate([(arrays[name] - THETA_0[name]).ravel() for name in THETA_0])


def test_terms_stay_within_the_limits():
    terms = Terms(samples=60, cost=0.05, eagerness=6000.0, budget=9.0)
    capped = Limits(payment_max=2.0, price_min=0.5).cap(terms)
    assert capped == Terms(samples=60, cost=0.5, eagerness=6000.0, budget=2.0)
    assert Limits(payment_max=20.0, price_min=0.01).cap(terms) == terms
    assert Limits().cap(terms) == terms


def test_the_file_gives_the_limits(tmp_path):
    file = tmp_path / "institution.toml"
    text = (
        'name = "clinic"\nstate_dir = "state"\n[terms]\nsamples = 60\ncost = 0.05\n'
        "eagerness = 6000.0\n[training]\niterations = 5\n[task]\nname = 'digits'\n"
        "split = 'clusters'\ninstitution = 0\ninstitutions = 6\nsamples = 60\n"
    )
    file.write_text(text + "[limits]\npayment_max = 3.0\nprice_min = 0.2\ntasks = ['d']\n")
    loaded = Institution.load(file)
    assert (loaded.terms.budget, loaded.terms.cost) == (3.0, 0.2)
    assert loaded.limits.tasks == ("d",)
    for wrong in ("clip_norm = 0.0", "rounds_a_day = 0", "noise_std = -1.0", "colour = 'red'"):
        file.write_text(f"{text}[limits]\n{wrong}\n")
        with pytest.raises(InstitutionError, match=f"limits.*{wrong.split()[0]}"):
            Institution.load(file)


def test_only_the_tasks_named_are_served():
    Limits().require_task("", "digits")
    Limits().require_task("digits", "digits")
    Limits(tasks=("ours",)).require_task("ours", "bank.credit:Credit")
    for limits, asked in ((Limits(), "faces"), (Limits(tasks=("ours",)), "digits")):
        with pytest.raises(LimitError, match=f"asks for task '{asked}', and only '(digits|ours)'"):
            limits.require_task(asked, "digits")
    with pytest.raises(LimitError, match=r"set task in market\.toml"):
        Limits(tasks=("ours",)).require_task("", "digits")


@pytest.mark.parametrize("norm_max", [0.01, 0.5])
def test_the_update_sent_is_no_longer_than_the_limit(institution, norm_max):
    free = update(fit(limited(institution, "free")).arrays)
    assert np.linalg.norm(free) > 1
    clipped = limited(institution, clip_norm=norm_max)
    sent = update(fit(clipped).arrays)
    assert np.linalg.norm(sent) == pytest.approx(norm_max, rel=1e-4)
    # It points the same way, and what the institution keeps for itself is not clipped.
    assert sent @ free / np.linalg.norm(sent) / np.linalg.norm(free) == pytest.approx(1, abs=1e-4)
    trainer = Trainer(clipped)
    store = Store(clipped.state_dir, "clinic")
    store.read(store.state().trained.file, trainer.learner.shared)
    np.testing.assert_array_equal(update(trainer.learner.arrays()), free)


def test_a_short_update_is_sent_as_it_is(institution):
    free = fit(limited(institution, "free")).arrays
    sent = fit(limited(institution, clip_norm=1e6)).arrays
    assert all(np.array_equal(free[name], sent[name]) for name in free)


def test_the_limit_holds_in_later_rounds_too(institution):
    clipped = limited(institution, clip_norm=0.3)
    for number in range(3):
        reply = Trainer(clipped).fit(
            FitRequest(round=number, initial=THETA_0 if number == 0 else None)
        )
        assert np.linalg.norm(update(reply.arrays)) <= 0.3 * 1.0001


def test_noise_is_added_and_is_the_same_when_asked_again(institution):
    free = update(fit(limited(institution, "free")).arrays)
    noisy = limited(institution, noise_std=0.1)
    sent = update(fit(noisy).arrays).copy()
    noise = sent - free
    assert noise.std() == pytest.approx(0.1, rel=0.1)
    assert abs(noise.mean()) < 0.02
    np.testing.assert_array_equal(update(fit(noisy).arrays), sent)
    # Another institution, or round, draws another noise.
    other = update(fit(limited(institution, "other", noise_std=0.1)).arrays) - free
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.2
    assert noisy.state_dir.joinpath("noise.key").stat().st_mode & 0o077 == 0


def test_metrics_stay_at_home_when_they_are_not_shared(institution):
    quiet = limited(institution, share_metrics=False)
    assert fit(quiet).metrics == {}
    assert fit(quiet).metrics == {}  # asked again
    assert Trainer(quiet).fit(FitRequest(round=1, train=False)).metrics == {}


def test_rounds_a_day_are_counted_and_asking_again_is_not_one(institution, monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(limits_module.time, "time", lambda: now[0])
    twice = limited(institution, rounds_a_day=2)
    fit(twice, 0)
    now[0] += 3600
    fit(twice, 1)
    fit(twice, 1)
    with pytest.raises(LimitError, match=r"rounds_a_day is 2: ask again in 1380 minutes"):
        fit(twice, 2)
    Trainer(twice).fit(FitRequest(round=2, train=False))  # judging is no round of training
    now[0] += DAY_S - 3600 + 1
    fit(twice, 2)


def test_a_round_that_fails_counts(institution):
    once = limited(institution, rounds_a_day=1)
    far = {name: np.full_like(array, 1e30) for name, array in THETA_0.items()}
    with pytest.raises(TrainingError):
        Trainer(once).fit(FitRequest(round=0, initial=far))
    with pytest.raises(LimitError, match="1 rounds were begun"):
        fit(once)


def test_noise_cannot_be_taken_off_by_asking_under_other_limits(institution):
    free = update(fit(limited(institution, "free")).arrays).copy()
    noises = []
    for std in (0.01, 0.1):
        sent = update(fit(limited(institution, noise_std=std)).arrays)
        noises.append((sent - free) / std)
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.2


def test_clipping_needs_the_model_that_the_market_began_with(institution):
    fit(institution)
    store = Store(institution.state_dir, "clinic")
    store.commit(store.state().model_copy(update={"initial": None}), {})
    with pytest.raises(LimitError, match="clip_norm needs the initial model"):
        Trainer(limited(institution, clip_norm=1.0)).fit(FitRequest(round=1))
    with pytest.raises(LimitError, match="clip_norm needs the initial model"):  # asked again
        Trainer(limited(institution, clip_norm=1.0)).fit(FitRequest(round=0))
