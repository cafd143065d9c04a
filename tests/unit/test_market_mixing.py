"""Distances and prox-centres from the Gram matrix, against explicit vectors in float64."""

from math import inf

import numpy as np
import pytest

from ipfl_flower.market import MixingError, Terms, distances, mixing_matrix

M, D = 5, 40
TERMS = [Terms(n, 1.0, 1e4) for n in (100, 20, 300, 50, 5000)]
CAP = 10.0


@pytest.fixture
def updates():
    rng = np.random.default_rng(0)
    return rng.normal(size=(M, D)) + rng.normal(size=D)


@pytest.fixture
def imports():
    table = np.random.default_rng(1).random((M, M)) < 0.6
    np.fill_diagonal(table, val=False)
    table[3] = False
    assert table[[0, 1, 2, 4]].any(axis=1).all()
    return table


def volume_ratios(imports):
    """w_ij = a_ij min(N_j, cap · N_i) / N_i."""
    n = [t.samples for t in TERMS]
    return np.array(
        [[imports[i, j] * min(n[j], CAP * n[i]) / n[i] for j in range(M)] for i in range(M)]
    )


def cosine_distance(v, u):
    return 1 - v @ u / np.linalg.norm(v) / np.linalg.norm(u)


def numerical_gradient(distance, v, step=1e-6):
    basis = np.eye(len(v)) * step
    return np.array([(distance(v + e) - distance(v - e)) / (2 * step) for e in basis])


# --- distances ------------------------------------------------------------------------------------


def test_distances_are_those_of_the_vectors(updates):
    gram = updates @ updates.T
    cosine, l2 = distances(gram, "cosine"), distances(gram, "l2")
    for i in range(M):
        for j in range(M):
            assert cosine[i, j] == pytest.approx(cosine_distance(updates[i], updates[j]), abs=1e-12)
            assert l2[i, j] == pytest.approx(((updates[i] - updates[j]) ** 2).sum(), rel=1e-11)
    for result in (cosine, l2):
        assert (result == result.T).all()
        assert (np.diagonal(result) == 0).all()


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_distances_stay_in_their_range_whatever_rounding_does(kind):
    v = np.random.default_rng(2).normal(size=D)
    rows = np.array([v, v * (1 + 1e-12), -v, v * 3, v + 1e-9])
    gram = rows @ rows.T
    gram += np.random.default_rng(3).normal(size=gram.shape) * 1e-9
    result = distances(gram, kind)
    assert (result >= 0).all()
    assert (result == result.T).all()
    if kind == "cosine":
        assert result.max() <= 2
        assert result[0, 2] == pytest.approx(2)


@pytest.mark.parametrize("kind", ["cosine", "l2"])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, 1e-9])
def test_an_update_that_is_zero_or_not_finite_is_not_tradable(updates, kind, bad):
    updates[2] *= bad
    with np.errstate(all="ignore"):
        gram = updates @ updates.T
    result = distances(gram, kind)
    assert np.isnan(result[2]).all()
    assert np.isnan(result[:, 2]).all()
    rest = [0, 1, 3, 4]
    assert (result[np.ix_(rest, rest)] == distances(gram[np.ix_(rest, rest)], kind)).all()


def test_updates_of_very_different_length_are_tradable(updates):
    gram = (updates * np.array([1e-3, 1, 1, 1, 1e4])[:, None]) @ updates.T
    gram = gram * np.array([1e-3, 1, 1, 1, 1e4])
    assert np.isfinite(distances(gram, "cosine")).all()


def test_a_market_of_nobody_and_one_of_newcomers():
    assert distances(np.zeros((0, 0)), "cosine").shape == (0, 0)
    assert np.isnan(distances(np.zeros((3, 3)), "cosine")).all()
    huge = distances(np.full((2, 2), 1.7e308), "l2")
    assert huge.shape == (2, 2)


# --- prox-centres ---------------------------------------------------------------------------------


def test_l2_auto_is_the_weighted_mean(updates, imports):
    mixing = mixing_matrix(updates @ updates.T, TERMS, imports, kind="l2", eta="auto")
    w = volume_ratios(imports)
    total = w.sum(axis=1)
    expected = (updates + w @ updates) / (1 + total)[:, None]
    assert np.allclose(updates + mixing.weights @ updates, expected, atol=1e-12)
    buys = imports.any(axis=1)
    assert np.allclose(mixing.eta[buys], 1 / (2 * (1 + total[buys])))


@pytest.mark.parametrize("eta", [1e-3, 0.05, 20.0])
def test_l2_steps_along_the_gradient_and_stays_a_convex_combination(updates, imports, eta):
    mixing = mixing_matrix(updates @ updates.T, TERMS, imports, kind="l2", eta=eta)
    w = volume_ratios(imports)
    for i in np.flatnonzero(imports.any(axis=1)):
        step = min(eta, 1 / (2 * w[i].sum()))
        assert mixing.eta[i] == pytest.approx(step)
        gradient = sum(
            w[i, j] * numerical_gradient(lambda v, j=j: ((v - updates[j]) ** 2).sum(), updates[i])
            for j in range(M)
        )
        centre = updates[i] + mixing.weights[i] @ updates
        assert np.allclose(centre, updates[i] - step * gradient, atol=1e-6)
    shares = mixing.weights + np.eye(M)
    assert (shares > -1e-15).all()
    assert np.allclose(shares.sum(axis=1), 1)


@pytest.mark.parametrize("eta", [1e-3, 0.5, 100.0])
def test_cosine_steps_along_the_gradient(updates, imports, eta):
    mixing = mixing_matrix(updates @ updates.T, TERMS, imports, kind="cosine", eta=eta)
    w = volume_ratios(imports)
    for i in np.flatnonzero(imports.any(axis=1)):
        gradient = sum(
            w[i, j] * numerical_gradient(lambda v, j=j: cosine_distance(v, updates[j]), updates[i])
            for j in range(M)
        )
        length = np.linalg.norm(updates[i])
        step = min(eta * length**2, length / np.linalg.norm(gradient))
        assert mixing.eta[i] == pytest.approx(step, rel=1e-6)
        centre = updates[i] + mixing.weights[i] @ updates
        assert np.allclose(centre, updates[i] - step * gradient, atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_who_imports_nothing_gets_no_centre(updates, imports, kind):
    mixing = mixing_matrix(updates @ updates.T, TERMS, imports, kind=kind, eta=0.5)
    assert not mixing.weights[3].any()
    assert mixing.eta[3] == 0
    nothing = np.zeros((M, M), dtype=bool)
    mixing = mixing_matrix(updates @ updates.T, TERMS, nothing, kind=kind, eta=0.5)
    assert not mixing.weights.any()
    assert not mixing.eta.any()


def test_between_parallel_updates_the_cosine_step_is_the_given_one():
    v = np.random.default_rng(4).normal(size=D)
    rows = np.array([v, 2 * v])
    imports = np.array([[False, True], [False, False]])
    mixing = mixing_matrix(rows @ rows.T, TERMS[:2], imports, kind="cosine", eta=0.5)
    assert mixing.eta[0] == pytest.approx(0.5 * (v @ v))
    assert np.allclose(rows[0] + mixing.weights[0] @ rows, v)


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_an_untradable_bystander_changes_nothing(updates, imports, kind):
    imports[1, :] = imports[:, 1] = False
    expected = mixing_matrix(updates @ updates.T, TERMS, imports, kind=kind, eta=0.5)
    updates[1] = np.nan
    mixing = mixing_matrix(updates @ updates.T, TERMS, imports, kind=kind, eta=0.5)
    assert (mixing.weights == expected.weights).all()
    imports[0, 1] = True
    with pytest.raises(MixingError, match="institution 1 trades, but its update"):
        mixing_matrix(updates @ updates.T, TERMS, imports, kind=kind, eta=0.5)


def test_inputs_that_do_not_fit_are_refused(updates, imports):
    gram = updates @ updates.T
    with pytest.raises(MixingError, match=r"gram is \(5, 40\): it must be square"):
        distances(updates, "l2")
    with pytest.raises(MixingError, match="kind is 'l1': choose one of cosine, l2"):
        distances(gram, "l1")
    with pytest.raises(MixingError, match="kind is 'l1'"):
        mixing_matrix(gram, TERMS, imports, kind="l1", eta=1.0)
    with pytest.raises(MixingError, match='eta is "auto"'):
        mixing_matrix(gram, TERMS, imports, kind="cosine", eta="auto")
    for eta in (0.0, -1.0, inf, np.nan):
        with pytest.raises(MixingError, match="give a finite number above 0"):
            mixing_matrix(gram, TERMS, imports, kind="l2", eta=eta)
    with pytest.raises(MixingError, match="both are"):
        mixing_matrix(gram, TERMS[:4], imports, kind="l2", eta=1.0)
