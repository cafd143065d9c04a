"""Distances from the mean update (mechanism.md §2): what is true, and what it costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfl_flower.market import MixingError, Rules, Terms, clear, distances, rebased

MANY = settings(max_examples=150, deadline=None)
SMALL = settings(max_examples=40, deadline=None)


@st.composite
def updates(draw, least=3):
    """Updates of any lengths, in few dimensions or many, with a common part or without."""
    m, size = draw(st.integers(least, 12)), draw(st.sampled_from([3, 40, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    common = draw(st.sampled_from([0.0, 1.0, 5.0]))
    rows = rng.normal(size=(m, size)) + common * rng.normal(size=size)
    return rows * np.exp(rng.uniform(-4, 4, m))[:, None]


def from_mean(rows, active=None):
    return distances(rows @ rows.T, "cosine", "mean", active)


def by_hand(rows, members=slice(None)):
    """Distances in float64 from the updates themselves."""
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    moved = units - units[members].mean(axis=0)
    moved /= np.linalg.norm(moved, axis=1)[:, None]
    n = len(units[members])
    return (n - 1) / n * (1 - moved @ moved.T)


@MANY
@given(updates(), st.data())
def test_distances_are_those_of_the_unit_updates_less_their_mean(rows, data):
    m = len(rows)
    leaving = data.draw(st.sets(st.integers(0, m - 1), max_size=m - 3))
    active = np.array([i not in leaving for i in range(m)])
    result = from_mean(rows, active)
    np.testing.assert_allclose(result, by_hand(rows, active), atol=1e-9)
    assert (result == result.T).all()
    assert (np.diagonal(result) == 0).all()
    assert result.min() >= 0
    assert result.max() <= 2


@MANY
@given(updates(), st.data())
def test_a_huge_model_moves_the_mean_no_more_than_another(rows, data):
    before = from_mean(rows)
    rows[data.draw(st.integers(0, len(rows) - 1))] *= 1e6
    np.testing.assert_allclose(from_mean(rows), before, atol=1e-9)


@MANY
@given(updates(), st.data())
def test_the_order_of_institutions_does_not_show(rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    index = np.ix_(order, order)
    gram = rows @ rows.T
    gram = gram / 2 + gram.T / 2
    straight = distances(gram, "cosine", "mean")
    assert distances(gram[index], "cosine", "mean").tobytes() == straight[index].tobytes()


@MANY
@given(updates(), st.sampled_from([0.0, np.nan, np.inf]), st.data())
def test_what_is_not_usable_is_not_in_the_mean(rows, bad, data):
    at = data.draw(st.integers(0, len(rows)))
    spoilt = np.insert(rows, at, bad, axis=0)
    with np.errstate(all="ignore"):
        gram = spoilt @ spoilt.T
    rest = np.delete(np.arange(len(spoilt)), at)
    gram[np.ix_(rest, rest)] = rows @ rows.T
    result = distances(gram, "cosine", "mean")
    assert np.isnan(result[at]).all()
    assert np.isnan(result[:, at]).all()
    assert result[np.ix_(rest, rest)].tobytes() == from_mean(rows).tobytes()


@SMALL
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_who_is_the_mean_does_not_trade(half, seed):
    """Mirror images in pairs, about the direction of one more: that one is their mean."""
    rng = np.random.default_rng(seed)
    common = np.r_[3.0, np.zeros(40)]
    aside = 0.1 * np.c_[np.zeros(half), rng.normal(size=(half, 40)) / np.sqrt(40)]
    result = from_mean(np.r_[common + aside, common - aside, common[None]])
    assert np.isnan(result[-1]).all()
    assert np.isfinite(result[:-1, :-1]).all()


def test_equal_updates_are_not_comparable():
    assert np.isnan(from_mean(np.ones((5, 7)) * np.arange(1, 6)[:, None])).all()


@SMALL
@given(updates(least=3), st.integers(0, 2))
def test_fewer_than_three_are_measured_from_the_initial_model(rows, usable):
    gram = rows @ rows.T
    rows[usable:] = 0
    alone = rows @ rows.T
    assert (rebased(alone) == alone).all()
    plain = distances(alone, "cosine")
    np.testing.assert_array_equal(distances(alone, "cosine", "mean"), plain)
    active = np.arange(len(rows)) < usable
    np.testing.assert_array_equal(
        distances(gram, "cosine", "mean", active), distances(gram, "cosine")
    )


# --- what it is for, and what it costs ------------------------------------------------------------


def around(common, groups, each, noise, seed, size=4000):
    """Return updates: a common part, one of the group, and noise, of those lengths."""
    rng = np.random.default_rng(seed)

    def directions(count):
        rows = rng.normal(size=(count, size))
        return rows / np.linalg.norm(rows, axis=1)[:, None]

    of_groups = np.repeat(directions(groups), each, axis=0)
    return common * directions(1) + of_groups + noise * directions(groups * each)


def bought(apart, samples, weight):
    terms = [Terms(int(n), 0.05, 100.0 * n) for n in samples]  # V = 10
    return clear(terms, apart, Rules(distance_weight=weight)).imports


@SMALL
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_groups_around_a_large_common_part_are_told_apart_from_the_mean(each, seed):
    """As the updates of adapters are: cosines of 4/6 across groups, of 5/6 within."""
    rows = around(2.0, 2, each, 1.0, seed)
    same = np.kron(np.eye(2, dtype=bool), np.ones((each, each), dtype=bool))
    np.fill_diagonal(same, val=False)
    other = np.kron(~np.eye(2, dtype=bool), np.ones((each, each), dtype=bool))
    plain = distances(rows @ rows.T, "cosine")
    assert plain[other].mean() - plain[same].mean() < 0.2
    moved = from_mean(rows)
    assert moved[same].max() < 1 < moved[other].min()
    imports = bought(moved, [100] * 2 * each, 2.5)
    assert imports[same].any()
    assert not imports[other].any()


@SMALL
@given(st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_institutions_that_are_all_alike_do_not_trade_from_the_mean(m, seed):
    rows = around(2.0, 1, m, 1.0, seed)
    everybody = ~np.eye(m, dtype=bool)
    equal = [100] * m
    plain = distances(rows @ rows.T, "cosine")
    assert bought(plain, equal, 5.0).any(axis=1).all()  # λ = V / 2, as recommended
    moved = from_mean(rows)
    np.testing.assert_allclose(moved[everybody], 1, atol=0.15)  # however many they are
    assert not bought(moved, equal, 5.0).any()


def test_what_can_not_be_measured_is_refused():
    gram = np.eye(4)
    with pytest.raises(MixingError, match="reference is 'mean': choose initial, or with cosine"):
        distances(gram, "l2", "mean")
    with pytest.raises(MixingError, match="reference is 'median'"):
        distances(gram, "cosine", "median")
    with pytest.raises(MixingError, match=r"active is bool \(3,\): it must be bool \(4,\)"):
        rebased(gram, np.ones(3, dtype=bool))
    with pytest.raises(MixingError, match="it must be square"):
        rebased(gram[:3])
