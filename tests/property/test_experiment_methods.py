"""What holds of every method, and of the arithmetic they share."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.quadratic_sites import QuadraticSites

from ipfl_flower.experiment.methods import METHODS, make
from ipfl_flower.experiment.methods.arithmetic import (
    NonFiniteModelError,
    average,
    distance,
    gram,
    mix,
)

# FedFomo tries everybody: which of the others it is sent depends on positions, by its draws.
# CFL splits at the first occasion, so that there are several clusters.
OPTIONS = {"fedfomo": {"downloads": 9}, "cfl": {"stationary": 9.0, "apart": 0.1}}
VARIANTS = [
    *((name, OPTIONS.get(name, {})) for name in METHODS),
    ("fedamp", {"attention": "distance"}),
    ("pfedgraph", {"use": "aggregate"}),
]
each_method = pytest.mark.parametrize(("name", "options"), VARIANTS)
few = settings(max_examples=20, deadline=None)


def random_sites(seed, count, size=5):
    rng = np.random.default_rng(seed)
    return QuadraticSites(
        rng.normal(size=(count, size)),
        samples=rng.integers(1, 100, count),
        initial=rng.normal(size=size),
        way=0.7,
    )


def rearranged(sites, order):
    return QuadraticSites(
        sites.optima[order], samples=sites.samples[order], initial=sites.initial, way=0.7
    )


def play(name, options, sites, rounds=3):
    method = make(name, sites, options)
    return [method.play(number) for number in range(rounds)]


@each_method
@few
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), data=st.data())
def test_renaming_institutions_renames_results(name, options, seed, count, data):
    sites = random_sites(seed, count)
    order = np.array(data.draw(st.permutations(range(count))))
    as_is = play(name, options, sites)
    renamed = play(name, options, rearranged(sites, order))
    for a, b in zip(as_is, renamed, strict=True):
        np.testing.assert_allclose(a.models[order], b.models, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(a.trained[order], b.trained, rtol=1e-4, atol=1e-4)
        assert (a.imports[np.ix_(order, order)] == b.imports).all()


@each_method
@pytest.mark.parametrize("count", [1, 2, 6])
def test_results_have_their_shapes_and_nobody_imports_its_own(name, options, count):
    for played in play(name, options, random_sites(1, count)):
        assert played.models.shape == played.trained.shape == (count, 5)
        assert played.models.dtype == played.trained.dtype == np.float32
        assert np.isfinite(played.models).all()
        assert played.imports.shape == (count, count)
        assert not played.imports.diagonal().any()


@each_method
def test_one_institution_alone_learns_what_it_would_anyway(name, options):
    """Nobody else is there: all arrive at its optimum, as far as nothing holds them back."""
    sites = random_sites(2, 1)
    *_, last = play(name, options, sites, rounds=40)
    np.testing.assert_allclose(last.models, sites.optima, atol=2e-3)


@each_method
def test_identical_institutions_stay_identical(name, options):
    sites = QuadraticSites([[1, 2, 3]] * 4, samples=[5] * 4, way=0.7)
    for played in play(name, options, sites):
        assert (played.models == played.models[0]).all()
        assert (played.trained == played.trained[0]).all()


@each_method
def test_the_same_play_gives_the_same_bits(name, options):
    options = options | ({"downloads": 2} if name == "fedfomo" else {})
    one, two = (play(name, options, random_sites(3, 6)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert a.models.tobytes() == b.models.tobytes()
        assert (a.imports == b.imports).all()


@each_method
def test_a_model_that_is_no_number_is_named(name, options):
    class Diverging(QuadraticSites):
        def train(self, number, orders, *, sent=True):
            models = super().train(number, orders, sent=sent)
            if number == 1:
                models[2, 3] = np.nan
            return models

    sites = random_sites(4, 4)
    method = make(name, Diverging(sites.optima, samples=sites.samples), options)
    method.play(0)
    with pytest.raises(NonFiniteModelError, match=r"round 1: the models of institutions \[2\]"):
        method.play(1)


@few
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_averaging_equal_models_changes_no_bit(seed, count):
    rng = np.random.default_rng(seed)
    model = rng.normal(size=5000).astype(np.float32)
    mean = average(np.tile(model, (count, 1)), rng.integers(1, 1000, count))
    assert mean.tobytes() == model.tobytes()


def test_block_arithmetic_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=10_001).astype(np.float32)
    models = reference + 1e-2 * rng.normal(size=(7, 10_001)).astype(np.float32)
    updates = models.astype(float) - reference
    exact = updates @ updates.T
    scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    assert abs((gram(models, reference) - exact) / scale).max() < 1e-6
    rows = np.array([5, 1, 3])
    np.testing.assert_allclose(gram(models, reference, rows), exact[np.ix_(rows, rows)], rtol=1e-5)
    weights = rng.dirichlet(np.ones(3), size=2)
    np.testing.assert_allclose(
        mix(weights, models, rows), weights @ models[rows].astype(float), rtol=0, atol=1e-6
    )
    assert distance(models[0], models[1]) == pytest.approx(
        float(np.linalg.norm(models[0].astype(float) - models[1])), rel=1e-6
    )


def test_weights_that_dont_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="must sum to 1"):
        mix(np.array([[0.5, 0.4]]), np.ones((2, 3), np.float32))


def test_memory_is_the_results_and_not_their_product():
    models = np.zeros((30, 200_000), np.float32)
    weights = np.full((30, 30), 1 / 30)
    tracemalloc.start()
    try:
        mixed = mix(weights, models)
        gram(models, models[0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mixed.nbytes + 4 * 2**20  # m × m × D would be 720 MB
