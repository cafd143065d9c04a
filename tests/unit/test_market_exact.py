"""The parts of `exact` that a complete search rarely needs."""

import numpy as np
import pytest

from ipfl_flower.market import Rules, Terms, clear
from ipfl_flower.market.exact import TOLERANCE, Shortlist, _without_unworthy, maximise, welfare
from ipfl_flower.market.gain import cube_root, gain, leave_one_out


def test_whoever_is_not_worth_its_price_on_top_of_the_others_is_dropped_the_worst_first():
    """Volumes and costs of §3: all three together, as in no best set."""
    volumes = np.array([[1.06, 2.94, 1.35, 1.0]])
    prices = np.array([[0.036, 0.159, 0.015, np.inf]])
    chosen = np.array([[True, True, True, False]])
    kept = _without_unworthy(chosen.copy(), volumes, prices)
    x = 1 + volumes[chosen].sum()
    dear = zip(volumes[0, :3], prices[0, :3], strict=True)
    short = [p - (1 / np.sqrt(x - v) - 1 / np.sqrt(x)) for v, p in dear]
    assert short[1] == max(short) > 0
    assert kept.tolist() == [[True, False, True, False]]
    assert _without_unworthy(kept.copy(), volumes, prices).tolist() == kept.tolist()


def test_a_small_seller_is_judged_rightly_beside_a_giant():
    volumes, prices = np.array([[0.5, 1e15]]), np.array([[1e-3, 0.2]])
    both = np.array([[True, True]])
    assert _without_unworthy(both.copy(), volumes, prices).tolist() == [[False, True]]


def test_sums_without_one_keep_what_lies_beside_a_giant():
    total, without = leave_one_out(0.1, [0.2, 1e16, 0.3])
    assert total == 1e16
    assert without == [1e16, 0.6, 1e16]
    assert leave_one_out(7.0, []) == (7.0, [])


def test_a_small_gain_does_not_cancel():
    root, volume, added = (np.array([x]) for x in (1.0, 1e12, 1e-3))
    assert np.isclose(gain(root, volume, added)[0], 0.5e-3 * 1e-18, rtol=1e-12)
    assert gain(root, np.array([np.inf]), added)[0] == 0


def test_the_cube_root_is_that_of_numpy_to_the_last_places():
    numbers = np.r_[0.0, 5e-324, 1e-300, np.exp(np.linspace(-690, 690, 5000)), 8.0, 27.0, 1.7e308]
    assert np.allclose(cube_root(numbers), np.cbrt(numbers), rtol=1e-15, atol=0)
    assert cube_root(np.array([0.0, 8.0, 27.0])).tolist() == [0.0, 2.0, 3.0]


def random_shortlist(rng, rows, k):
    volumes = np.exp(rng.uniform(-3, 2, (rows, k)))
    ratios = np.sort(rng.uniform(0.01, rng.uniform(0.02, 0.3), (rows, k)), axis=1)
    pad = np.ones((rows, 1))
    prices = np.hstack((ratios * volumes, pad * np.inf))
    return Shortlist(np.zeros(prices.shape, dtype=int), np.hstack((volumes, pad)), prices)


@pytest.mark.parametrize("climbs", [True, False])
def test_the_branching_finds_the_best_of_all_subsets(climbs, monkeypatch):
    """Also from the plain base set: a good start must not hide a wrong bound."""
    if not climbs:
        monkeypatch.setattr("ipfl_flower.market.search._CLIMBED", ())
    rng = np.random.default_rng(0)
    k = 12
    subsets = (np.arange(2**k)[:, None] >> np.arange(k)) & 1
    for _ in range(10):
        offers = random_shortlist(rng, 12, k)
        chosen, capped = maximise(offers, node_cap=10**6)
        assert not capped.any()
        volumes = subsets @ offers.volumes[:, :k].T
        best = (1 - 1 / np.sqrt(1 + volumes) - subsets @ offers.prices[:, :k].T).max(axis=0)
        assert (welfare(chosen, offers) >= best - TOLERANCE).all()
        assert (welfare(chosen, offers) <= best + 1e-12).all()


def test_what_is_free_is_bought_however_tiny():
    rng = np.random.default_rng(0)
    volumes = rng.integers(10**14, 10**16 // 2, 12).tolist()
    sellers = [Terms(n, n * 2e-16 * rng.uniform(0.9, 1.1), 0.0) for n in volumes]
    terms = [Terms(10**15, 1.0, 1e15), *sellers, *[Terms(1, 0.0, 0.0)] * 3]
    clearing = clear(terms, np.zeros((16, 16)), Rules())
    assert clearing.imports[0, -3:].all()
    assert not clearing.imports[0].all()
