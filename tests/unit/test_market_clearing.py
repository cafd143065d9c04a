"""Clearing: the counterexamples of mechanism.md §3 and §4, budgets, and every edge case of §8."""

from dataclasses import FrozenInstanceError
from math import inf, isclose, nan, sqrt

import numpy as np
import pytest

from ipfl_flower.market import MICRO, ClearingError, Rules, Terms, check, clear

MECHANISMS = ("truthful", "paper")
ALL_RULES = [
    Rules(selection=selection, payment=payment)
    for selection in ("greedy", "skip", "exact")
    for payment in ("marginal", "critical")
]


def settle(terms, distances=None, rules=None, active=None):
    """Clear, and see that the invariants hold."""
    distances = np.zeros((len(terms), len(terms))) if distances is None else distances
    rules = rules or Rules()
    clearing = clear(terms, distances, rules, active)
    assert check(terms, distances, rules, clearing, active) == []
    assert np.isfinite(clearing.gains).all()
    assert np.isfinite(clearing.utilities).all()
    return clearing


def bought(clearing, buyer=0):
    return np.flatnonzero(clearing.imports[buyer]).tolist()


def seller(samples, cost):
    return Terms(samples, cost, 0.0)


# --- the counterexamples of §3 and §4 -------------------------------------------------------------


def test_greedy_buys_nothing_where_the_optimum_trades():
    terms = [Terms(100, inf, 1e4), seller(2000, 8.0), seller(10, 0.3)]
    assert bought(settle(terms, rules=Rules(selection="greedy"))) == []
    assert bought(settle(terms, rules=Rules(selection="skip"))) == [2]
    assert bought(settle(terms, rules=Rules(selection="exact"))) == [2]


def test_understating_the_cost_pays_under_paper_and_not_under_truthful():
    def second_seller(reported, mechanism):
        terms = [Terms(100, inf, 1e4), seller(100, 2.0), seller(100, reported)]
        clearing = settle(terms, rules=Rules(mechanism))
        sold = clearing.imports[0, 2]
        return clearing.transfers[0, 2] / MICRO, clearing.transfers[0, 2] / MICRO - 2.2 * sold

    assert second_seller(2.2, "paper") == (0.0, 0.0)
    paid, utility = second_seller(1.9, "paper")
    assert isclose(paid, 2.929, abs_tol=5e-4)
    assert isclose(utility, 0.729, abs_tol=5e-4)
    assert second_seller(2.2, "truthful") == (0.0, 0.0)
    paid, utility = second_seller(1.9, "truthful")
    assert isclose(paid, 2.0, abs_tol=1e-5)  # what the other one would have cost
    assert utility < 0


@pytest.mark.parametrize("rules", ALL_RULES)
def test_the_market_where_adding_by_marginal_gain_breaks_rationality_stays_rational(rules):
    volumes, costs = (106, 294, 135), (0.36, 1.59, 0.15)
    terms = [Terms(100, inf, 1e4), *(seller(n, c) for n, c in zip(volumes, costs, strict=True))]

    def gain(x, n):
        return sqrt(1e4 / x) - sqrt(1e4 / (x + n))

    # What §3 warns of: adding the best marginal seller until none pays.
    added, at = [], 100
    while rest := [j for j in range(3) if j not in added]:
        best = max(rest, key=lambda j: gain(at, volumes[j]) - costs[j])
        if gain(at, volumes[best]) <= costs[best]:
            break
        added.append(best)
        at += volumes[best]
    final = {j: gain(at - volumes[j], volumes[j]) for j in added}
    assert any(final[j] < costs[j] for j in added)  # its payment would not cover the cost

    clearing = settle(terms, rules=rules)
    for j in bought(clearing):
        assert clearing.transfers[0, j] >= costs[j - 1] * MICRO - 1


def test_a_seller_that_claims_eight_times_its_volume_empties_the_market_under_greedy_alone():
    honest, distances = [Terms(100, 1.0, 1e4) for _ in range(5)], np.full((5, 5), 1.5)
    paper = Rules("paper", max_volume_ratio=inf)
    assert settle(honest, distances, paper).imports[1:].any()
    for claim in (800, 2000, 10**6):
        lying = [Terms(claim, 1.0, 1e4), *honest[1:]]
        assert not settle(lying, distances, paper).imports[1:].any()
        for selection in ("skip", "exact"):
            rules = Rules(selection=selection, max_volume_ratio=inf)
            assert settle(lying, distances, rules).imports[1:, 1:].any()


def test_a_liar_in_volume_or_eagerness_can_gain():
    """No mechanism can be truthful in N and K: what is not promised must not be asserted."""
    # A seller that claims twice its samples is paid more, at the same cost.
    honest = [Terms(100, inf, 1e4), seller(100, 1.0)]
    lying = [Terms(100, inf, 1e4), seller(200, 1.0)]
    for mechanism in MECHANISMS:
        rules = Rules(mechanism)
        assert settle(lying, rules=rules).net[1] < settle(honest, rules=rules).net[1]
    # A buyer that plays down its eagerness imports the same and pays less.
    shy = [Terms(100, inf, 2.5e3), seller(100, 1.0)]
    for mechanism in MECHANISMS:
        eager, played_down = (settle(t, rules=Rules(mechanism)) for t in (honest, shy))
        assert (eager.imports == played_down.imports).all()
        assert played_down.net[0] < eager.net[0]


def test_both_payments_of_two_equal_sellers():
    terms = [Terms(100, inf, 1e4), seller(100, 1.0), seller(100, 1.0)]
    marginal = 10 * (sqrt(1 / 2) - sqrt(1 / 3))
    paper = settle(terms, rules=Rules("paper"))
    assert paper.transfers[0].tolist() == [0, *2 * [int(marginal * MICRO)]]
    truthful = settle(terms)  # without a third seller the critical price is the marginal one
    assert np.abs(truthful.transfers - paper.transfers).max() <= 1
    assert truthful.net.tolist() == [
        truthful.transfers[0].sum(),
        -truthful.transfers[0, 1],
        -truthful.transfers[0, 2],
    ]
    assert isclose(truthful.gains[0], 10 * (1 - sqrt(1 / 3)))
    assert isclose(truthful.utilities[1], truthful.transfers[0, 1] / MICRO - 1.0)


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_bill_over_budget_empties_the_whole_row_and_no_other(mechanism):
    rules = Rules(mechanism)
    terms = [Terms(100, 1.0, 1e4) for _ in range(4)]
    distances = np.full((4, 4), 0.1)
    free = settle(terms, distances, rules)
    bill = int(free.transfers[0].sum())
    exactly = settle([Terms(100, 1.0, 1e4, bill / MICRO), *terms[1:]], distances, rules)
    assert not exactly.declined.any()
    assert (exactly.transfers == free.transfers).all()
    short = settle([Terms(100, 1.0, 1e4, (bill - 1) / MICRO), *terms[1:]], distances, rules)
    assert short.declined.tolist() == [True, False, False, False]
    assert not short.imports[0].any()
    assert not short.transfers[0].any()
    assert short.gains[0] == 0
    assert (short.imports[1:] == free.imports[1:]).all()
    assert (short.transfers[1:] == free.transfers[1:]).all()


def test_a_budget_of_nothing_declines_only_what_costs_something():
    terms = [Terms(100, 0.0, 1e4, 0.0), Terms(100, 0.0, 1e4, 0.0)]
    assert settle(terms).declined.all()
    apart = settle(terms, np.full((2, 2), 1000.0))
    assert not apart.declined.any()
    assert not apart.imports.any()


def test_a_bill_that_money_cannot_hold_is_declined():
    terms = [Terms(1, inf, 1e60), seller(10, 0.01), Terms(100, 1.0, 1e4)]
    clearing = settle(terms)
    assert clearing.declined.tolist() == [True, False, False]
    assert clearing.imports[2, 1]


# --- the edge cases of §8 -------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ALL_RULES)
@pytest.mark.parametrize("m", [0, 1])
def test_markets_of_nobody_and_of_one(m, rules):
    clearing = settle([Terms(100, 1.0, 1e4)] * m, rules=rules)
    assert clearing.imports.shape == (m, m)
    assert clearing.net.tolist() == [0] * m
    assert clearing.utilities.tolist() == [0.0] * m


@pytest.mark.parametrize("rules", ALL_RULES)
class TestEdgeCases:
    def test_all_costs_huge_empty_the_market(self, rules):
        clearing = settle([Terms(100, 1e9, 1e4)] * 4, rules=rules)
        assert not clearing.imports.any()
        assert not clearing.transfers.any()

    @pytest.mark.parametrize("spread", [0.0, 1.7])
    def test_free_models_make_a_complete_graph(self, rules, spread):
        rules = Rules(distance_weight=0.0, selection=rules.selection, payment=rules.payment)
        terms = [Terms(n, 0.0, 1e4) for n in (1, 50, 100, 10**12, 7)]
        clearing = settle(terms, np.full((5, 5), spread), rules)
        assert (clearing.imports == ~np.eye(5, dtype=bool)).all()

    def test_equal_models_trade(self, rules):
        assert settle([Terms(100, 1.0, 1e4)] * 5, rules=rules).imports.any()

    def test_one_sample_buys_and_sells(self, rules):
        clearing = settle([Terms(1, 0.01, 100.0), Terms(1, 0.01, 100.0)], rules=rules)
        assert clearing.imports.tolist() == [[False, True], [True, False]]

    def test_no_samples_neither_buy_nor_sell(self, rules):
        terms = [Terms(0, 0.0, 1e4), *[Terms(100, 1.0, 1e4)] * 2]
        clearing = settle(terms, rules=rules)
        assert not clearing.imports[0].any()
        assert not clearing.imports[:, 0].any()
        assert clearing.imports[1, 2]

    def test_without_eagerness_one_sells_alone(self, rules):
        clearing = settle([seller(100, 1.0), Terms(100, 1.0, 1e4)], rules=rules)
        assert clearing.imports.tolist() == [[False, False], [True, False]]
        assert not settle([seller(100, 1.0)] * 3, rules=rules).imports.any()

    def test_with_an_infinite_cost_one_buys_alone(self, rules):
        clearing = settle([Terms(100, inf, 1e4), Terms(100, 1.0, 1e4)], rules=rules)
        assert clearing.imports.tolist() == [[False, True], [False, False]]

    def test_a_nan_model_trades_with_nobody(self, rules):
        distances = np.zeros((4, 4))
        distances[1, :] = distances[:, 1] = nan
        clearing = settle([Terms(100, 0.1, 1e4)] * 4, distances, rules)
        assert not clearing.imports[1].any()
        assert not clearing.imports[:, 1].any()
        assert clearing.imports[0, 2]

    def test_a_nan_pair_alone_is_not_traded(self, rules):
        distances = np.zeros((3, 3))
        distances[0, 1] = nan
        clearing = settle([Terms(100, 0.1, 1e4)] * 3, distances, rules)
        assert bought(clearing, 0) == [2]
        assert bought(clearing, 1) == [0, 2]

    def test_who_is_inactive_does_not_trade(self, rules):
        active = np.array([True, False, True, True])
        clearing = settle([Terms(100, 0.1, 1e4)] * 4, rules=rules, active=active)
        without = settle([Terms(100, 0.1, 1e4)] * 3, rules=rules)
        index = np.ix_(active, active)
        assert (clearing.transfers[index] == without.transfers).all()
        assert clearing.transfers.sum() == without.transfers.sum()

    @pytest.mark.parametrize("cap", [10.0, inf, 1e-300])
    @pytest.mark.parametrize("weight", [1.0, 1e6, 1e308])
    def test_absurd_numbers_are_defined(self, rules, cap, weight):
        rules = Rules("paper", weight, cap, rules.selection, rules.payment)
        terms = [
            Terms(10**12, 0.0, 1e300, 5.0),
            Terms(1, 0.05, 1e12),
            Terms(100, 1e308, 5e-324),
            Terms(2**53, 5e-324, 1.7e308),
            Terms(100, 1.0, 1e4),
        ]
        rng = np.random.default_rng(3)
        distances = rng.uniform(0, 2, (5, 5)) * rng.choice([0, 1e-300, 1, 1e300], (5, 5))
        clearing = settle(terms, distances, rules)
        assert clearing.net.sum() == 0

    def test_the_result_is_read_only(self, rules):
        clearing = settle([Terms(100, 0.1, 1e4)] * 3, rules=rules)
        for name in ("imports", "transfers", "net", "gains", "utilities", "declined"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(clearing, name)[0] = 1
        with pytest.raises(FrozenInstanceError):
            clearing.fallbacks = 3


def test_a_small_buyer_counts_a_huge_seller_as_the_cap():
    """For buyer i, min(N_j, cap · N_i) replaces N_j in the gain and in the distance price."""
    rules = Rules(max_volume_ratio=2.5)
    distances = np.full((2, 2), 0.1)
    capped = settle([Terms(100, inf, 1e4), seller(10**9, 1.0)], distances, rules)
    true = settle([Terms(100, inf, 1e4), seller(250, 1.0)], distances, rules)
    assert capped.transfers.tolist() == true.transfers.tolist()
    assert capped.gains.tolist() == true.gains.tolist()


def test_past_the_node_cap_rows_fall_back_on_skip():
    rng = np.random.default_rng(5)
    m = 24
    terms = [Terms(int(n), 0.05, 100.0 * n) for n in rng.integers(50, 5000, m)]
    distances = rng.uniform(0, 0.2, (m, m))
    skip = {
        p: settle(terms, distances, Rules(selection="skip", payment=p))
        for p in ("marginal", "critical")
    }
    for payment, expected in skip.items():
        capped = settle(terms, distances, Rules(payment=payment, node_cap=4))
        exact = settle(terms, distances, Rules(payment=payment))
        assert exact.fallbacks == 0
        assert 0 < capped.fallbacks < m
        as_skip = (capped.transfers == expected.transfers).all(axis=1)
        as_exact = (capped.transfers == exact.transfers).all(axis=1)
        assert (as_skip | as_exact).all()
        assert as_skip.sum() >= capped.fallbacks


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distances", "active", "message"),
    [
        (np.zeros((2, 3)), None, r"distances is \(2, 3\): it must be \(3, 3\)"),
        (np.zeros(3), None, "distances is"),
        (np.full((3, 3), -0.1), None, "buyer 0 and seller 1 is negative"),
        (np.full((3, 3), inf), None, "buyer 0 and seller 1 is infinite"),
        (np.zeros((3, 3)), np.ones(2, dtype=bool), "active is bool"),
        (np.zeros((3, 3)), np.ones(3), "active is float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(distances, active, message):
    with pytest.raises(ClearingError, match=message):
        clear([Terms(100, 1.0, 1e4)] * 3, distances, Rules(), active)


def test_a_distance_just_below_zero_is_zero_and_the_diagonal_is_ignored():
    terms = [Terms(100, 1.0, 1e4)] * 3
    distances = np.full((3, 3), -1e-9)
    np.fill_diagonal(distances, nan)
    clearing = settle(terms, distances)
    assert (clearing.transfers == settle(terms).transfers).all()
    assert distances[0, 1] == -1e-9  # the caller's array is left alone
