"""Each invariant of mechanism.md §8 fires on a clearing that was tampered with."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from ipfl_flower.market import MICRO, Rules, Terms, check, clear

M = 6
RULES = Rules()
TERMS = [
    *[Terms(100, 0.5, 1e4) for _ in range(M - 3)],
    Terms(100, 0.5, 1e4, 0.01),  # over budget
    Terms(100, 0.5, 0.0),  # a pure seller
    Terms(100, inf, 1e4),  # a pure buyer
]
DISTANCES = np.full((M, M), 0.2)
ACTIVE = np.array([True] * M)


def tampered(**arrays):
    """The market's clearing with some cells replaced: name={index: value}."""
    clearing = clear(TERMS, DISTANCES, RULES, ACTIVE)
    changed = {}
    for name, cells in arrays.items():
        if not isinstance(cells, dict):
            changed[name] = cells
            continue
        array = getattr(clearing, name).copy()
        for index, value in cells.items():
            array[index] = value
        changed[name] = array
    return replace(clearing, **changed)


def found(clearing, active=ACTIVE, rules=RULES):
    return check(TERMS, DISTANCES, rules, clearing, active)


def test_the_market_itself_is_sound_and_is_not_trivial():
    clearing = tampered()
    assert found(clearing) == []
    assert clearing.declined[3]
    assert clearing.imports[0, 1]
    assert not clearing.imports[4].any()
    assert not clearing.imports[:, 5].any()


def moved(buyer, seller, units):
    """Pay `units` more on one edge, and book it in the net payments too."""
    clearing = tampered()
    transfers, net = clearing.transfers.copy(), clearing.net.copy()
    transfers[buyer, seller] += units
    net[buyer] += units
    net[seller] -= units
    return replace(clearing, transfers=transfers, net=net)


@pytest.mark.parametrize(
    ("cells", "name", "institutions", "text"),
    [
        ({"imports": {(0, 0): True}}, "tradable", (0, 0), "buyer 0 of seller 0 imports"),
        ({"imports": {(4, 0): True}}, "tradable", (4, 0), "buyer 4 of seller 0 imports"),
        ({"imports": {(0, 5): True}}, "tradable", (0, 5), "buyer 0 of seller 5 imports"),
        ({"transfers": {(4, 0): 7}}, "edges only", (4, 0), "pays 7 micro-credits and imports"),
        ({"imports": {(3, 0): True}}, "budgets", (3,), "declined its row and imports"),
        ({"net": {0: 5}}, "balance", (0,), "institution 0 nets 5 micro-credits"),
        ({"net": {0: 5}}, "balance", (), "the net payments add up to"),
        ({"gains": {1: 9.9}}, "reported", (1,), "has gain 9.9"),
        ({"gains": {1: np.nan}}, "reported", (1,), "has gain nan"),
        ({"utilities": {1: 9.9}}, "reported", (1,), "has utility 9.9"),
        ({"utilities": {2: -0.5}}, "rationality", (2,), "has utility -0.5"),
        ({"transfers": {(0, 1): -1}}, "shapes", (0, 1), "pays -1 micro-credits"),
        ({"transfers": {(0, 1): 2**60}}, "shapes", (0, 1), "pays 1152921504606846976"),
        ({"fallbacks": M + 1}, "shapes", (), "7 of 6 rows fell back"),
        ({"net": np.zeros(M)}, "shapes", (), "net is float64"),
        ({"imports": np.zeros((M, 2), dtype=bool)}, "shapes", (), "imports is bool"),
    ],
)
def test_tampering_is_found(cells, name, institutions, text):
    violations = [v for v in found(tampered(**cells)) if v.check == name]
    assert institutions in [v.institutions for v in violations]
    assert any(text in str(v) and str(v).startswith(f"{name}: ") for v in violations)


def test_a_payment_under_the_cost_is_found():
    clearing = tampered()
    paid = int(clearing.transfers[0, 1])
    violations = found(moved(0, 1, MICRO // 2 - 100 - paid))
    assert [(v.check, v.institutions) for v in violations if v.check == "bounds"] == [
        ("bounds", (0, 1))
    ]
    assert "the seller's cost is 0.500000" in "".join(map(str, violations))


def test_a_payment_over_what_the_model_adds_is_found():
    violations = found(moved(0, 1, MICRO))
    assert ("bounds", (0, 1)) in [(v.check, v.institutions) for v in violations]
    assert any("the model adds" in str(v) for v in violations)


def test_a_bill_over_what_the_set_is_worth_is_found():
    violations = found(moved(0, 1, 20 * MICRO))
    assert ("rationality", (0,)) in [(v.check, v.institutions) for v in violations]
    assert any("for what is worth" in str(v) for v in violations)


def test_a_bill_over_budget_is_found():
    bill = int(tampered().transfers[0].sum())
    terms = [replace(TERMS[0], budget=(bill - 1) / MICRO), *TERMS[1:]]
    violations = check(terms, DISTANCES, RULES, tampered(), ACTIVE)
    assert [(v.check, v.institutions) for v in violations] == [("budgets", (0,))]


def test_a_rounding_is_not_a_violation():
    assert found(moved(0, 1, 1)) == [] or found(moved(0, 1, -1)) == []


def test_who_is_inactive_or_untradable_must_not_trade():
    away = ACTIVE.copy()
    away[1] = False
    assert ("tradable", (0, 1)) in [(v.check, v.institutions) for v in found(tampered(), away)]
    distances = DISTANCES.copy()
    distances[1, :] = distances[:, 1] = np.nan
    violations = check(TERMS, distances, RULES, tampered(), ACTIVE)
    assert ("tradable", (1, 0)) in [(v.check, v.institutions) for v in violations]


def test_a_clearing_under_other_rules_is_found():
    assert found(tampered(), rules=Rules(distance_weight=50.0))
