"""The set of models with the greatest welfare, by branch and bound: `exact` (mechanism.md §3).

Everything here is scaled: volumes in units of N_i, money in units of V_i. Then a buyer's welfare is

    W(S) = 1 − 1/√x − Σ_{j∈S} t_j,    x = 1 + Σ_{j∈S} n_j

and the searches of many buyers, and of the same buyer without one of its sellers, run side by side
as the rows of a matrix. What a row yields depends on that row alone.

The bound. For any x° > 0 with slope μ = 1 / (2 x°√x°), concavity gives

    W(S) = U − Σ_{j flipped} |μ n_j − t_j| − D(x),    D(x) = 1/√x − 1/√x° + μ (x − x°) ≥ 0,

where j is flipped if S differs there from the base {j : μ n_j > t_j}. At the x° of the continuous
knapsack, U is its optimum: the fractional bound. A seller whose flip alone costs more than U minus
the best set known keeps its place; the others, few, are branched on, the dearest flip first.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market.gain import Bools, Floats, gain, value_scale
from ipfl_flower.market.offers import Offers, chunks, leave_out
from ipfl_flower.market.relaxation import relax
from ipfl_flower.market.search import search

TOLERANCE: Final = 2.5e-7
"""Of V_i: what a set may fall short of the optimum. Two of these bound what a lie can gain."""


@dataclass(frozen=True)
class Shortlist:
    """The sellers that a buyer could want, scaled, in order of t/N, then t, then position.

    Who is not worth its price alone is not worth it in any set, and is left out. Rows are padded
    with sellers of volume 1 and infinite price; the last column is always padding.

    Attributes
    ----------
    sellers : intp (p, k)
        Positions; meaningless in the padding.
    volumes : float64 (p, k)
        N_ij / N_i.
    prices : float64 (p, k)
        t_ij / V_i.
    """

    sellers: NDArray[np.intp]
    volumes: Floats
    prices: Floats

    def without(self, buyers: NDArray[np.intp], places: NDArray[np.intp]) -> "Shortlist":
        """Return the rows `buyers`, each without the seller in its place `places`."""
        rows, index = buyers[:, None], leave_out(places, self.sellers.shape[1])
        return Shortlist(
            self.sellers[rows, index], self.volumes[rows, index], self.prices[rows, index]
        )


def shortlist(offers: Offers) -> Shortlist:
    """Pick and sort each buyer's possible sellers.

    Parameters
    ----------
    offers : Offers

    Returns
    -------
    Shortlist
    """
    own, root = offers.own[:, None], offers.root[:, None]
    alone = gain(root, own, offers.volumes)
    wanted = (offers.prices < inf) & ((alone > offers.prices) | (offers.prices <= 0))
    scale = np.where(offers.root > 0, value_scale(offers.root, offers.own), 1.0)[:, None]
    volumes = np.where(wanted, offers.volumes / own, 1.0)
    prices = np.full(volumes.shape, inf)
    np.divide(offers.prices, scale, out=prices, where=wanted)
    order = np.lexsort((prices, prices / volumes), axis=1)
    width = int(wanted.sum(axis=1).max(initial=0)) + 1  # the diagonal is never wanted
    order = order[:, :width]
    return Shortlist(
        order,
        np.take_along_axis(volumes, order, axis=1),
        np.take_along_axis(prices, order, axis=1),
    )


def maximise(offers: Shortlist, node_cap: int) -> tuple[Bools, Bools]:
    """Find each row's best set, to within `TOLERANCE`.

    Parameters
    ----------
    offers : Shortlist
    node_cap : int
        States that one row's search may visit.

    Returns
    -------
    chosen : bool (p, k)
        By place in the shortlist. Each is worth its price on top of the others.
    capped : bool (p,)
        The search hit the cap: the row may be far from the best.
    """
    count, width = len(offers.prices), offers.prices.shape[1]
    chosen = np.zeros((count, width), dtype=bool)
    capped = np.zeros(count, dtype=bool)
    for part in chunks(count, width):
        volumes, prices = offers.volumes[part], offers.prices[part]
        # Of equal volumes the cheapest ones are the best set (§3): no need to search.
        equal = ((volumes == volumes[:, :1]) | (prices == inf)).all(axis=1)
        found = _while_worth(volumes, prices)
        hard = np.flatnonzero(~equal)
        rows = part.start + hard
        found[hard], capped[rows] = search(
            relax(volumes[hard], prices[hard]), volumes[hard], TOLERANCE, node_cap
        )
        found |= prices <= 0  # the search may leave out what is free and tiny
        chosen[part] = _without_unworthy(_first_of_equals(found, volumes, prices), volumes, prices)
    return chosen, capped


def welfare(chosen: Bools, offers: Shortlist) -> Floats:
    """Return W(S) of each row's set, in units of V_i.

    Parameters
    ----------
    chosen : bool (p, k)
    offers : Shortlist

    Returns
    -------
    float64 (p,)
    """
    # cumsum adds in the order of the places, whatever the padding; sum doesn't.
    added = np.cumsum(np.where(chosen, offers.volumes, 0.0), axis=1)[:, -1]
    paid = np.cumsum(np.where(chosen, offers.prices, 0.0), axis=1)[:, -1]
    one = np.ones_like(added)
    result: Floats = gain(one, one, added) - paid
    return result


def _while_worth(volumes: Floats, prices: Floats) -> Bools:
    """Choose from the front, as long as each is worth its price on top of those before it."""
    before = np.ones_like(volumes)
    before[:, 1:] += np.cumsum(volumes[:, :-1], axis=1)
    worth = (gain(np.ones_like(before), before, volumes) > prices) | (prices <= 0)
    return np.logical_and.accumulate(worth, axis=1)


def _first_of_equals(chosen: Bools, volumes: Floats, prices: Floats) -> Bools:
    """Of sellers with the same volume and price, which are neighbours, choose the first ones."""
    p, k = chosen.shape
    new = np.ones((p, k), dtype=bool)
    new[:, 1:] = (np.diff(volumes, axis=1) != 0) | (prices[:, 1:] != prices[:, :-1])
    start = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    taken = np.bincount(group, weights=chosen.ravel())
    first: Bools = np.arange(p * k) - start[group] < taken[group]
    return first.reshape(p, k)


def _without_unworthy(chosen: Bools, volumes: Floats, prices: Floats) -> Bools:
    """Drop, the worst first, whoever is not worth its price on top of the others."""
    while True:
        bought = np.where(chosen, volumes, 0.0)
        # Added up from both ends: a difference would lose what lies beside a huge volume.
        others = np.ones_like(bought)
        others[:, 1:] += np.cumsum(bought[:, :-1], axis=1)
        others[:, :-1] += np.cumsum(bought[:, :0:-1], axis=1)[:, ::-1]
        short = np.where(chosen, prices - gain(np.ones_like(others), others, volumes), 0.0)
        worst = np.argmax(short, axis=1)
        rows = np.flatnonzero(short[np.arange(len(chosen)), worst] > 0)
        if not rows.size:
            return chosen
        chosen[rows, worst[rows]] = False
