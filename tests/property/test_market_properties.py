"""What is true of every market (mechanism.md §3, §4, §8), on random ones."""

from dataclasses import replace
from math import inf, isclose, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference_market import ReferenceMarket, to_micro

from ipfl_flower.market import MICRO, Rules, Terms, check, clear, threshold

RULES = st.builds(
    Rules,
    distance_weight=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    max_volume_ratio=st.sampled_from([2.5, 10.0, inf]),
    selection=st.sampled_from(["greedy", "skip", "exact"]),
    payment=st.sampled_from(["marginal", "critical"]),
)
SMALL = settings(max_examples=60, deadline=None)


@st.composite
def markets(draw, least=2, most=7, ties=True):
    """Terms and distances whose V is about 1 to 30, at costs that matter."""
    m = draw(st.integers(least, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    samples = np.exp(rng.uniform(np.log(20), np.log(3000), m)).astype(int)
    cost = rng.choice([0.05, 0.5, 2.0]) * rng.uniform(0, 2, m)
    distances = rng.uniform(0, rng.choice([0.1, 2.0]), (m, m))
    eagerness = samples * np.exp(rng.uniform(0, 7, m))
    budget = np.full(m, inf)
    if ties:
        if rng.random() < 0.3:
            samples[:] = samples[0]
        if rng.random() < 0.3:
            cost = np.round(cost)
        if rng.random() < 0.3:
            distances = np.round(distances)
        cost[rng.random(m) < 0.1] = inf
        eagerness[rng.random(m) < 0.1] = 0
        samples[rng.random(m) < 0.05] = 0
        budget = np.where(rng.random(m) < 0.1, rng.uniform(0, 10, m), inf)
        distances[rng.random((m, m)) < 0.05] = nan
    terms = [
        Terms(int(n), float(c), float(k), float(b))
        for n, c, k, b in zip(samples, cost, eagerness, budget, strict=True)
    ]
    return terms, distances


def scale(terms):
    return np.sqrt(terms.eagerness / max(1, terms.samples))


@SMALL
@given(markets(), RULES)
def test_every_clearing_is_balanced_rational_and_keeps_the_invariants(market, rules):
    terms, distances = market
    clearing = clear(terms, distances, rules)
    assert check(terms, distances, rules, clearing) == []
    assert sum(clearing.net.tolist()) == 0
    for i, j in np.argwhere(clearing.imports).tolist():
        assert clearing.transfers[i, j] >= to_micro(terms[j].cost)
    edges = clearing.imports.sum(axis=0) + clearing.imports.sum(axis=1)
    assert (clearing.utilities >= -1e-6 * edges - 1e-9).all()
    assert clearing.fallbacks == 0


@SMALL
@given(markets(), RULES)
def test_the_clearing_is_that_of_the_reference(market, rules):
    terms, distances = market
    terms = [replace(t, budget=inf) for t in terms]
    clearing = clear(terms, distances, rules)
    reference = ReferenceMarket(terms, distances, rules)
    for i in range(len(terms)):
        chosen = set(np.flatnonzero(clearing.imports[i]).tolist())
        if rules.selection == "exact":
            best = reference.welfare(i, reference.best(i))
            unit = reference.scale(i) if reference.sellers(i) else 0.0
            assert reference.welfare(i, chosen) >= best - 1e-6 * unit - 1e-12
        else:
            assert chosen == reference.walk(i, stop=rules.selection == "greedy")
        assert isclose(clearing.gains[i], reference.gain(i, chosen), abs_tol=1e-9)
        for j in chosen:
            paid = clearing.transfers[i, j] / MICRO
            if rules.payment == "marginal":
                # Money is rounded down.
                assert -1e-9 <= reference.marginal(i, chosen, j) - paid <= 1.001e-6
            elif rules.selection == "exact":
                slack = 1.1e-6 + 1e-6 * reference.scale(i)
                assert isclose(paid, reference.clarke(i, chosen, j), abs_tol=slack)


@SMALL
@given(markets(), st.sampled_from(["greedy", "skip"]), st.sampled_from([0.3, 1.0, 5.0]))
def test_the_critical_payment_is_the_highest_cost_that_still_sells(market, selection, weight):
    terms, distances = market
    terms = [replace(t, budget=inf) for t in terms]
    rules = Rules(distance_weight=weight, selection=selection, payment="critical")
    clearing = clear(terms, distances, rules)
    edges = np.argwhere(clearing.imports).tolist()[:2]
    for i, j in edges:

        def sells(cost, i=i, j=j):
            asked = [*terms[:j], replace(terms[j], cost=cost), *terms[j + 1 :]]
            return clear(asked, distances, rules).imports[i, j]

        low, high = terms[j].cost, float(scale(terms[i])) + 1.0
        assert not sells(high)
        for _ in range(32):
            middle = (low + high) / 2
            low, high = (middle, high) if sells(middle) else (low, middle)
        assert isclose(clearing.transfers[i, j] / MICRO, low, abs_tol=1.1e-6, rel_tol=1e-9)


@SMALL
@given(markets())
def test_exact_is_never_worse_than_greedy_or_skip(market):
    terms, distances = market
    reference = ReferenceMarket(terms, distances, Rules())
    sets = {
        name: clear([replace(t, budget=inf) for t in terms], distances, Rules(selection=name))
        for name in ("greedy", "skip", "exact")
    }
    for i in range(len(terms)):
        worth = {
            name: reference.welfare(i, np.flatnonzero(clearing.imports[i]).tolist())
            for name, clearing in sets.items()
            if reference.sellers(i)
        }
        if worth:
            slack = 1e-6 * reference.scale(i)
            assert worth["exact"] >= max(worth["greedy"], worth["skip"]) - slack


@SMALL
@given(markets(), st.floats(0, 10))
def test_of_equal_volumes_greedy_and_skip_are_optimal(market, weight):
    terms, distances = market
    terms = [replace(t, samples=200, budget=inf) for t in terms]
    rules = Rules(distance_weight=weight)
    reference = ReferenceMarket(terms, distances, rules)
    for selection in ("greedy", "skip", "exact"):
        clearing = clear(terms, distances, replace(rules, selection=selection))
        for i in range(len(terms)):
            chosen = np.flatnonzero(clearing.imports[i]).tolist()
            if reference.sellers(i):
                best = reference.welfare(i, reference.best(i))
                assert isclose(reference.welfare(i, chosen), best, abs_tol=1e-9)


# --- lies about the cost --------------------------------------------------------------------------


def profit(terms, distances, rules, liar, reported):
    """What `liar` earns per buyer less its true cost, and the whole clearing."""
    told = [*terms[:liar], replace(terms[liar], cost=reported), *terms[liar + 1 :]]
    clearing = clear(told, distances, rules)
    sold = clearing.imports[:, liar]
    return clearing.transfers[:, liar] / MICRO - np.where(sold, terms[liar].cost, 0.0), clearing


def assert_lying_does_not_pay(market, rules, factor):
    """Edge by edge: to no buyer does the liar sell at more profit than by the truth."""
    terms, distances = market
    terms = [replace(t, budget=inf) for t in terms]
    for liar, own in enumerate(terms):
        if own.cost == inf:
            continue
        honest, _ = profit(terms, distances, rules, liar, own.cost)
        lied, _ = profit(terms, distances, rules, liar, own.cost * factor + (factor > 1) * 1e-3)
        slack = np.array([1.2e-6 + 1e-6 * scale(t) for t in terms])
        assert (lied <= honest + slack).all()


@SMALL
@given(markets(), RULES, st.floats(1.0, 10.0))
def test_overstating_the_cost_never_pays(market, rules, factor):
    assert_lying_does_not_pay(market, rules, factor)


@SMALL
@given(
    markets(),
    st.sampled_from(["greedy", "skip", "exact"]),
    st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    st.floats(0.0, 1.0),
)
def test_understating_the_cost_never_pays_with_critical_payments(market, name, weight, factor):
    rules = Rules(distance_weight=weight, selection=name, payment="critical")
    assert_lying_does_not_pay(market, rules, factor)


@SMALL
@given(markets(), RULES, st.floats(0.0, 3.0))
def test_while_selected_a_seller_does_not_change_the_set(market, rules, factor):
    terms, distances = market
    terms = [replace(t, budget=inf) for t in terms]
    if rules.selection == "exact":
        # Sets that differ within the tolerance are equal to it: compare what they are worth.
        terms = [replace(t, cost=0.3) if t.cost == inf else t for t in terms]
    liar = 0
    if terms[liar].cost == inf:
        return
    honest = clear(terms, distances, rules)
    _, told = profit(terms, distances, rules, liar, terms[liar].cost * factor)
    reference = ReferenceMarket(terms, distances, rules)
    for i in np.flatnonzero(honest.imports[:, liar] & told.imports[:, liar]).tolist():
        if rules.selection == "exact":
            worth = [
                reference.welfare(i, np.flatnonzero(clearing.imports[i]).tolist())
                for clearing in (honest, told)
            ]
            assert isclose(*worth, abs_tol=1e-6 * reference.scale(i))
        else:
            assert (honest.imports[i] == told.imports[i]).all()


# --- determinism ----------------------------------------------------------------------------------


@SMALL
@given(markets(most=14, ties=False), RULES, st.randoms(use_true_random=False))
def test_another_order_gives_the_same_clearing_bit_by_bit(market, rules, random):
    terms, distances = market
    order = list(range(len(terms)))
    random.shuffle(order)
    index = np.ix_(order, order)
    straight = clear(terms, distances, rules)
    shuffled = clear([terms[i] for i in order], distances[index], rules)
    assert (shuffled.imports == straight.imports[index]).all()
    assert (shuffled.transfers == straight.transfers[index]).all()
    for name in ("net", "gains", "utilities", "declined"):
        assert getattr(shuffled, name).tobytes() == getattr(straight, name)[order].tobytes()


@pytest.mark.parametrize("selection", ["greedy", "skip", "exact"])
def test_a_row_does_not_depend_on_the_rows_beside_it(selection):
    """Rows are searched side by side, in chunks: that must not show."""
    rng = np.random.default_rng(11)
    m = 60
    samples = np.exp(rng.uniform(np.log(50), np.log(5000), m)).astype(int)
    terms = [Terms(int(n), float(rng.uniform(0, 0.1)), 100.0 * n) for n in samples]
    distances = rng.uniform(0, 0.3, (m, m))
    rules = Rules(selection=selection, payment="critical")
    everybody = clear(terms, distances, rules)
    for buyer in (0, 17, 59):
        alone = [t if i == buyer else replace(t, eagerness=0.0) for i, t in enumerate(terms)]
        assert (clear(alone, distances, rules).transfers[buyer] == everybody.transfers[buyer]).all()


@SMALL
@given(st.integers(2, 12), st.sampled_from(["greedy", "skip", "exact"]), st.booleans())
def test_of_equal_sellers_the_first_ones_sell(m, selection, free):
    terms = [Terms(100, inf, 1e4), *[Terms(100, 0.0 if free else 0.4, 0.0)] * m]
    clearing = clear(terms, np.zeros((m + 1, m + 1)), Rules(selection=selection))
    sold = clearing.imports[0, 1:]
    assert sold.tolist() == sorted(sold.tolist(), reverse=True)
    assert sold.any()
    assert clearing.imports.sum() == sold.sum()


@SMALL
@given(st.integers(3, 14), st.floats(1.0, 30.0))
def test_of_equal_sellers_beside_others_the_first_ones_sell_under_exact(m, factor):
    unequal = Terms(int(100 * factor) + 1, 0.3 * factor, 0.0)
    terms = [Terms(100, inf, 1e4), *[Terms(100, 0.4, 0.0)] * m, unequal]
    clearing = clear(terms, np.zeros((m + 2, m + 2)), Rules(max_volume_ratio=inf))
    sold = clearing.imports[0, 1:-1].tolist()
    assert sold == sorted(sold, reverse=True)


# --- the threshold --------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.floats(1, 1e12), st.floats(1e-9, 1e9), st.floats(1e-6, 1e15))
def test_the_threshold_solves_its_equation_within_the_bracket(volume, price, eagerness):
    root = float(threshold(volume, price, eagerness))
    a = (volume * np.sqrt(eagerness) / (2 * price)) ** (2 / 3)
    assert max(volume, a) * (1 - 1e-12) <= root <= (volume + a) * (1 + 1e-12)
    if root - volume > 1e-6 * volume:  # else x − N has no digits left to test
        inside, outside = np.sqrt(root - volume), np.sqrt(root)
        gained = np.sqrt(eagerness) * volume / (inside * outside * (inside + outside))
        assert isclose(gained, price, rel_tol=1e-8)


def test_what_is_free_has_no_threshold_and_broadcasting_works():
    thresholds = threshold([100.0, 200.0], [[0.0, -1.0], [1.0, 1e-320]], 1e4)
    assert thresholds.shape == (2, 2)
    assert thresholds[0].tolist() == [inf, inf]
    assert 100 < thresholds[1, 0] < inf
    assert thresholds[1, 1] == inf
    assert threshold(100.0, 1e300, 1e-300) == 100.0


# --- the branch and bound at its hardest ---------------------------------------------------------


def hard_markets():
    rng = np.random.default_rng(2)
    samples = np.exp(rng.uniform(np.log(20), np.log(3000), 13)).astype(int)
    m = len(samples)
    yield "equal ratios", samples, np.zeros(m), np.ones((m, m)), 1.0
    yield "cost as volume", samples, samples * 1e-3, np.zeros((m, m)), 0.0
    yield "equal costs", samples, np.full(m, 0.3), np.zeros((m, m)), 0.0
    yield "two sizes", np.where(samples > 300, 300, 100), np.full(m, 0.2), np.zeros((m, m)), 0.0
    yield "identical but one", np.r_[[100] * (m - 1), 1000], np.full(m, 0.3), np.zeros((m, m)), 0.0
    yield "a giant", np.r_[samples[1:], 10**12], np.full(m, 0.5), np.full((m, m), 1e-10), 1.0


@pytest.mark.parametrize("case", list(hard_markets()), ids=lambda case: case[0])
def test_exact_finds_the_optimum_of_hard_markets(case):
    _, samples, cost, distances, weight = case
    m = len(samples)
    terms = [
        Terms(int(n), float(c), 100.0 * n if i in (0, 4, m - 2) else 0.0)
        for i, (n, c) in enumerate(zip(samples, cost, strict=True))
    ]
    rules = Rules(distance_weight=weight, max_volume_ratio=inf)
    clearing = clear(terms, distances, rules)
    assert clearing.fallbacks == 0
    assert check(terms, distances, rules, clearing) == []
    reference = ReferenceMarket(terms, distances, rules)
    for i in (0, 4, m - 2):
        best = reference.welfare(i, reference.best(i))
        chosen = np.flatnonzero(clearing.imports[i]).tolist()
        assert reference.welfare(i, chosen) >= best - 1e-6 * reference.scale(i)


def test_a_tiny_budget_of_states_and_rows_changes_no_complete_search(monkeypatch):
    """The memory bounds cut the work in parts; the parts give the same result."""
    rng = np.random.default_rng(8)
    m = 30
    terms = [Terms(int(n), 0.05, 100.0 * n) for n in rng.integers(50, 5000, m)]
    distances = rng.uniform(0, 0.2, (m, m))
    for selection in ("greedy", "skip", "exact"):
        rules = Rules(selection=selection, payment="critical")
        whole = clear(terms, distances, rules)
        monkeypatch.setattr("ipfl_flower.market.search._STATES", 8)
        monkeypatch.setattr("ipfl_flower.market.offers._CHUNK", 250)
        parts = clear(terms, distances, rules)
        monkeypatch.undo()
        assert (whole.transfers == parts.transfers).all()
        assert whole.fallbacks == parts.fallbacks == 0
