"""What must hold of every clearing (mechanism.md §8), as a list of small checks.

Cheap enough to run every round; a violation stops settlement. What holds of one mechanism alone
(optimality, two-sided truthfulness) is not here: tests see to that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipfl_flower.market.clearing import MICRO, MONEY_MAX, Clearing, set_gains, utilities
from ipfl_flower.market.gain import Bools, Floats, value_scale
from ipfl_flower.market.offers import Offers, make_offers
from ipfl_flower.market.payment import marginal_payments
from ipfl_flower.market.terms import Rules, Terms

_RELATIVE: Final = 1e-6
_ROUNDING: Final = 1e-12
"""Relative error that float64 sums of a whole market's money stay far below."""


@dataclass(frozen=True)
class Violation:
    """Something that must hold of a clearing and does not.

    Attributes
    ----------
    check : str
        Which check found it.
    institutions : tuple of int
        Positions: the institution, or buyer and seller.
    message : str
        What is wrong, with the amounts.
    """

    check: str
    institutions: tuple[int, ...]
    message: str

    def __str__(self) -> str:
        return f"{self.check}: {self.message}"


@dataclass(frozen=True)
class _Case:
    """A clearing and what it was made from.

    Attributes
    ----------
    terms, clearing, offers
    paid : float64 (m, m)
        R_ij, credits.
    tolerance : float64 (m,)
        10⁻⁶ (V_i + Σ_j r_ij), credits: what a buyer's sums may be off by, beside a unit an edge.
    """

    terms: Sequence[Terms]
    clearing: Clearing
    offers: Offers
    paid: Floats
    tolerance: Floats


_Check: TypeAlias = Callable[[_Case], Iterator[Violation]]


def check(
    terms: Sequence[Terms],
    distances: ArrayLike,
    rules: Rules,
    clearing: Clearing,
    active: ArrayLike | None = None,
) -> list[Violation]:
    """Check a clearing against what it was made from.

    Parameters
    ----------
    terms, distances, rules, active
        As given to `clear`.
    clearing : Clearing

    Returns
    -------
    list of Violation
        Empty if all is well.

    Raises
    ------
    ClearingError
        If the inputs are such that `clear` refuses them.
    """
    offers = make_offers(terms, distances, rules, active)
    malformed = list(_shapes(clearing, len(terms)))
    if malformed:
        return malformed
    paid = clearing.transfers / MICRO
    trades = offers.root > 0
    scale = np.where(trades, value_scale(offers.root, offers.own), 0.0)
    case = _Case(terms, clearing, offers, paid, _RELATIVE * (scale + paid.sum(axis=1)))
    return [violation for find in _CHECKS for violation in find(case)]


def _shapes(clearing: Clearing, m: int) -> Iterator[Violation]:
    """Everything else trusts the shapes, and that sums of money fit an int64."""
    expected = (
        ("imports", np.bool_, (m, m)),
        ("transfers", np.int64, (m, m)),
        ("net", np.int64, (m,)),
        ("gains", np.float64, (m,)),
        ("utilities", np.float64, (m,)),
        ("declined", np.bool_, (m,)),
    )
    for name, dtype, shape in expected:
        array = getattr(clearing, name)
        if array.dtype != dtype or array.shape != shape:
            yield Violation(
                "shapes", (), f"{name} is {array.dtype} {array.shape}, not {dtype.__name__} {shape}"
            )
            return
    if not 0 <= clearing.fallbacks <= m:
        yield Violation("shapes", (), f"{clearing.fallbacks} of {m} rows fell back")
    limit = MONEY_MAX // max(1, m)
    for i, j in _pairs((clearing.transfers < 0) | (clearing.transfers > limit)):
        amount = clearing.transfers[i, j]
        yield _edge("shapes", i, j, f"pays {amount} micro-credits, not from 0 to {limit}")


def _tradable(case: _Case) -> Iterator[Violation]:
    """a_ii = 0; nobody inactive, untradable or without eagerness trades."""
    for i, j in _pairs(case.clearing.imports & ~(case.offers.prices < inf)):
        yield _edge("tradable", i, j, "imports what is not tradable")


def _edges_only(case: _Case) -> Iterator[Violation]:
    """Money moves along imports alone."""
    for i, j in _pairs((case.clearing.transfers != 0) & ~case.clearing.imports):
        amount = case.clearing.transfers[i, j]
        yield _edge("edges only", i, j, f"pays {amount} micro-credits and imports nothing")


def _budgets(case: _Case) -> Iterator[Violation]:
    """No bill is over its budget, and a declined row is empty."""
    bills = case.clearing.transfers.sum(axis=1)
    for i, (bill, terms) in enumerate(zip(bills.tolist(), case.terms, strict=True)):
        if bill / MICRO > terms.budget:
            yield _one("budgets", i, f"pays {bill} micro-credits, its budget is {terms.budget:g}")
    for i in np.flatnonzero(case.clearing.declined & case.clearing.imports.any(axis=1)).tolist():
        yield _one("budgets", i, "declined its row and imports all the same")


def _balance(case: _Case) -> Iterator[Violation]:
    """p_i = Σ_j R_ij − Σ_j R_ji, and they add up to exactly 0."""
    transfers, net = case.clearing.transfers, case.clearing.net
    expected = transfers.sum(axis=1) - transfers.sum(axis=0)
    for i in np.flatnonzero(net != expected).tolist():
        yield _one("balance", i, f"nets {net[i]} micro-credits, its transfers {expected[i]}")
    total = sum(net.tolist())
    if total != 0:
        yield Violation("balance", (), f"the net payments add up to {total} micro-credits, not 0")


def _bounds(case: _Case) -> Iterator[Violation]:
    """c_j − ε ≤ r_ij ≤ marginal payment + ε."""
    imports, paid = case.clearing.imports & (case.offers.prices < inf), case.paid
    slack = case.tolerance[:, None] + 1.0 / MICRO
    cost = np.where(imports, case.offers.cost, 0.0)
    for i, j in _pairs(imports & (paid < cost - slack)):
        yield _edge("bounds", i, j, f"pays {paid[i, j]:.6f}, the seller's cost is {cost[i, j]:.6f}")
    marginal = marginal_payments(case.offers, imports)
    for i, j in _pairs(imports & (paid > marginal + slack)):
        yield _edge("bounds", i, j, f"pays {paid[i, j]:.6f}, the model adds {marginal[i, j]:.6f}")


def _rationality(case: _Case) -> Iterator[Violation]:
    """Σ_j r_ij ≤ G_i − Σ_j δ_ij + ε, and U_i ≥ −ε."""
    imports, clearing = case.clearing.imports, case.clearing
    bills = case.paid.sum(axis=1)
    worth = set_gains(case.offers, imports)
    worth -= np.where(imports, case.offers.distance_prices, 0.0).sum(axis=1)
    slack = case.tolerance + imports.sum(axis=1) / MICRO
    for i in np.flatnonzero(bills > worth + slack).tolist():
        yield _one("rationality", i, f"pays {bills[i]:.6f} for what is worth {worth[i]:.6f}")
    # A seller's cost and income are large numbers whose difference is rounded.
    slack = slack + imports.sum(axis=0) / MICRO + _ROUNDING * case.paid.sum(axis=0)
    for i in np.flatnonzero(clearing.utilities < -slack).tolist():
        yield _one("rationality", i, f"has utility {clearing.utilities[i]:.6f}")


def _reported(case: _Case) -> Iterator[Violation]:
    """Gains and utilities are those of the imports and payments."""
    clearing = case.clearing
    gains = set_gains(case.offers, clearing.imports)
    expected = utilities(case.offers, clearing.imports, gains, clearing.net)
    slack = case.tolerance + _ROUNDING * case.paid.sum(axis=0)
    for name, told, true in (
        ("gain", clearing.gains, gains),
        ("utility", clearing.utilities, expected),
    ):
        same = (np.abs(told - true) <= slack) | (told == true)
        for i in np.flatnonzero(~same).tolist():
            yield _one("reported", i, f"has {name} {told[i]:.6f}, it comes to {true[i]:.6f}")


_CHECKS: Final[tuple[_Check, ...]] = (
    _tradable,
    _edges_only,
    _budgets,
    _balance,
    _bounds,
    _rationality,
    _reported,
)


def _pairs(wrong: Bools) -> Iterator[tuple[int, int]]:
    places: NDArray[np.intp] = np.argwhere(wrong)
    yield from places.tolist()


def _edge(name: str, buyer: int, seller: int, what: str) -> Violation:
    return Violation(name, (buyer, seller), f"buyer {buyer} of seller {seller} {what}")


def _one(name: str, institution: int, what: str) -> Violation:
    return Violation(name, (institution,), f"institution {institution} {what}")
