"""The one entry point of the market: from everybody's terms to who buys whom and what is paid."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import fsum, inf
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipfl_flower.market.exact import maximise, shortlist
from ipfl_flower.market.gain import Bools, Floats, gain
from ipfl_flower.market.offers import Offers, make_offers
from ipfl_flower.market.payment import clarke_payments, critical_payments, marginal_payments
from ipfl_flower.market.selection import rank, walk
from ipfl_flower.market.terms import Rules, Terms

MICRO: Final = 1_000_000
"""Units of money in a credit: amounts are integers of 10⁻⁶ credit (mechanism.md §5)."""

MONEY_MAX: Final = 2**62
"""Units of money that all the bills of a round may come to: every sum of them fits an int64."""


@dataclass(frozen=True, eq=False)
class Clearing:
    """What a round's market decided. Row = buyer, column = seller; the arrays are read-only.

    Attributes
    ----------
    imports : bool (m, m)
        a_ij: i imports j's model.
    transfers : int64 (m, m)
        R_ij, micro-credits that i pays j.
    net : int64 (m,)
        p_i, micro-credits that i pays, less what it is paid. They add up to 0.
    gains : float64 (m,)
        G_i, credits.
    utilities : float64 (m,)
        U_i, credits.
    declined : bool (m,)
        The row was over the buyer's budget and is empty.
    fallbacks : int
        Rows in which `exact` hit its node cap and `skip` decided.
    """

    imports: Bools
    transfers: NDArray[np.int64]
    net: NDArray[np.int64]
    gains: Floats
    utilities: Floats
    declined: Bools
    fallbacks: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)


def clear(
    terms: Sequence[Terms], distances: ArrayLike, rules: Rules, active: ArrayLike | None = None
) -> Clearing:
    """Clear one round's market (mechanism.md §§2–5).

    Pure and deterministic: the same inputs give the same bytes, and in another order of the
    institutions the same clearing in that order. Only where sellers are equal in volume and price
    does the lower position go first.

    Parameters
    ----------
    terms : sequence of m Terms
    distances : float64 (m, m)
        d_ij ≥ 0 of buyer i and seller j; NaN: not tradable. The diagonal is ignored.
    rules : Rules
    active : bool (m,), optional
        Who takes part; by default everybody.

    Returns
    -------
    Clearing

    Raises
    ------
    ClearingError
        If the inputs don't fit together, or a distance is infinite or negative.

    Notes
    -----
    Who has no samples does not trade: V_i = √(K_i/0) has no value. A bill that int64 could not hold
    beside everybody else's (above `MONEY_MAX` / m) counts as over budget.
    """
    offers = make_offers(terms, distances, rules, active)
    imports, payments, fallbacks = _trade(offers, rules)
    transfers, declined = _bill(payments, imports, [t.budget for t in terms])
    imports = imports & ~declined[:, None]
    net = transfers.sum(axis=1) - transfers.sum(axis=0)
    gains = set_gains(offers, imports)
    return Clearing(
        imports, transfers, net, gains, utilities(offers, imports, gains, net), declined, fallbacks
    )


def set_gains(offers: Offers, imports: Bools) -> Floats:
    """Return G_i of each buyer's set.

    Parameters
    ----------
    offers : Offers
    imports : bool (m, m)

    Returns
    -------
    float64 (m,)
        Credits.
    """
    rows = zip(offers.volumes, imports, strict=True)
    added = np.array([fsum(volumes[bought].tolist()) for volumes, bought in rows])
    return gain(offers.root, offers.own, added)


def utilities(offers: Offers, imports: Bools, gains: Floats, net: NDArray[np.int64]) -> Floats:
    """Return U_i = G_i − c_i · (number of i's buyers) − p_i.

    Parameters
    ----------
    offers : Offers
    imports : bool (m, m)
    gains : float64 (m,)
        Credits.
    net : int64 (m,)
        Micro-credits.

    Returns
    -------
    float64 (m,)
        Credits.
    """
    sales = imports.sum(axis=0)
    spent = np.where(sales > 0, offers.cost, 0.0) * sales
    result: Floats = gains - spent - net / MICRO
    return result


def _trade(offers: Offers, rules: Rules) -> tuple[Bools, Floats, int]:
    """Select and price: imports (m, m), payments (m, m) in credits, rows that fell back."""
    if not (offers.prices < inf).any():
        return np.zeros(offers.prices.shape, dtype=bool), np.zeros(offers.prices.shape), 0
    if rules.selection != "exact":
        return *_trade_by_threshold(offers, rules, stop=rules.selection == "greedy"), 0
    candidates = shortlist(offers)
    chosen, capped = maximise(candidates, rules.node_cap)
    chosen[capped] = False
    imports = _by_seller(candidates.sellers, chosen, offers)
    if rules.payment == "critical":
        payments, cut = clarke_payments(offers, candidates, chosen, rules.node_cap)
        capped |= cut
    else:
        payments = marginal_payments(offers, imports)
    if capped.any():
        imports[capped], payments[capped] = _trade_by_threshold(
            offers.rows(capped), rules, stop=False
        )
    return imports, payments, int(capped.sum())


def _trade_by_threshold(offers: Offers, rules: Rules, *, stop: bool) -> tuple[Bools, Floats]:
    ranking = rank(offers)
    taken, _ = walk(ranking, stop=stop)
    imports = _by_seller(ranking.sellers, taken, offers)
    if rules.payment == "critical":
        return imports, critical_payments(offers, ranking, taken, stop=stop)
    return imports, marginal_payments(offers, imports)


def _by_seller(sellers: NDArray[np.intp], taken: Bools, offers: Offers) -> Bools:
    """Turn a matrix by place into one by the seller's position."""
    imports = np.zeros(offers.prices.shape, dtype=bool)
    np.put_along_axis(imports, sellers, taken, axis=1)
    return imports


def _bill(
    payments: Floats, imports: Bools, budgets: Sequence[float]
) -> tuple[NDArray[np.int64], Bools]:
    """Turn payments into money, R_ij = floor(10⁶ r_ij), and empty the rows over budget."""
    units = np.floor(payments * MICRO)
    limit = MONEY_MAX // max(1, len(budgets))
    bills = [
        sum(map(int, row[bought].tolist())) for row, bought in zip(units, imports, strict=True)
    ]
    # An integer over an integer is rounded once: a bill equal to the budget is never over it.
    over = [
        bill > limit or bill / MICRO > budget for bill, budget in zip(bills, budgets, strict=True)
    ]
    declined = np.array(over, dtype=bool)
    return np.where(declined[:, None], 0.0, units).astype(np.int64), declined
