"""What a buyer pays for each model it imports (mechanism.md §4).

Every payment lies between the seller's cost and what the model adds to the buyer's set: both bounds
are provable, and held to against rounding.
"""

from math import inf

import numpy as np

from ipfl_flower.market.exact import Shortlist, maximise, welfare
from ipfl_flower.market.gain import Bools, Floats, gain, leave_one_out, value_scale
from ipfl_flower.market.offers import Offers, chunks
from ipfl_flower.market.selection import Ranking, walk


def marginal_payments(offers: Offers, imports: Bools) -> Floats:
    """Pay what the model adds to the final set: r_ij = G_i(S) − G_i(S∖{j}) − δ_ij.

    Parameters
    ----------
    offers : Offers
    imports : bool (p, m)
        a_ij.

    Returns
    -------
    float64 (p, m)
        r_ij ≥ c_j, credits; 0 where nothing is imported.
    """
    buyers, sellers = np.nonzero(imports)
    without = np.empty(len(buyers))
    ends = np.cumsum(imports.sum(axis=1))
    for own, volumes, bought, end in zip(offers.own, offers.volumes, imports, ends, strict=True):
        rest = leave_one_out(float(own), volumes[bought].tolist())[1]
        without[end - len(rest) : end] = rest
    added = gain(offers.root[buyers], without, offers.volumes[buyers, sellers])
    payments = np.zeros(imports.shape)
    payments[buyers, sellers] = np.maximum(
        added - offers.distance_prices[buyers, sellers], offers.cost[sellers]
    )
    return payments


def clarke_payments(
    offers: Offers, shortlist: Shortlist, chosen: Bools, node_cap: int
) -> tuple[Floats, Bools]:
    """Pay each seller of the best set its critical cost: r_ij = c_j + W_i* − W*_{i,−j}.

    W*_{i,−j} is searched from nothing, without j: whatever j reports, it is the same number.

    Parameters
    ----------
    offers : Offers
        p buyers.
    shortlist : Shortlist
        Made from `offers`.
    chosen : bool (p, k)
        The best sets, by place in the shortlist.
    node_cap : int
        As in `exact.maximise`.

    Returns
    -------
    payments : float64 (p, m)
        r_ij, credits; 0 where nothing is imported.
    capped : bool (p,)
        A search for this buyer hit the cap: its payments are not to be used.
    """
    buyers, places = np.nonzero(chosen)
    sellers = shortlist.sellers[buyers, places]
    lost = np.empty(len(buyers))
    cut = np.empty(len(buyers), dtype=bool)
    best = welfare(chosen, shortlist)
    for part in chunks(len(buyers), shortlist.sellers.shape[1]):
        rest = shortlist.without(buyers[part], places[part])
        others, cut[part] = maximise(rest, node_cap)
        lost[part] = best[buyers[part]] - welfare(others, rest)
    imports = np.zeros(offers.prices.shape, dtype=bool)
    imports[buyers, sellers] = True
    scale = value_scale(offers.root[buyers], offers.own[buyers])
    payments = np.zeros(imports.shape)
    payments[buyers, sellers] = offers.cost[sellers] + scale * np.maximum(lost, 0.0)
    capped = np.bincount(buyers[cut], minlength=len(imports)) > 0
    return np.minimum(payments, marginal_payments(offers, imports)), capped


def critical_payments(offers: Offers, ranking: Ranking, taken: Bools, *, stop: bool) -> Floats:
    """Pay each seller the highest cost at which `greedy` or `skip` would still have taken it.

    x* = min over places p of max(n_p + N_j, th_p), where that is < th_{p−1}, in the walk without j.

    Parameters
    ----------
    offers : Offers
        p buyers.
    ranking : Ranking
        Made from `offers`.
    taken : bool (p, k)
        By place in the ranking.
    stop : bool
        The walk is `greedy`'s; otherwise `skip`'s.

    Returns
    -------
    float64 (p, m)
        r_ij, credits; 0 where nothing is imported.
    """
    buyers, places = np.nonzero(taken)
    sellers = ranking.sellers[buyers, places]
    added = ranking.volumes[buyers, places]
    own = np.empty(len(buyers))  # x* − N_j
    for part in chunks(len(buyers), ranking.sellers.shape[1]):
        rest = ranking.without(buyers[part], places[part])
        passed, before = walk(rest, stop=stop)
        volume = added[part, None]
        start = np.full(volume.shape, inf)
        upper = np.hstack((start, rest.thresholds[:, :-1]))
        fits = np.maximum(before + volume, rest.thresholds) < upper
        if stop:  # the walk reaches a place if all before it passed
            fits[:, 1:] &= passed[:, :-1]
        lowest = np.maximum(before, rest.thresholds - volume)
        own[part] = np.min(np.where(fits, lowest, inf), axis=1, initial=inf)
    imports = np.zeros(offers.prices.shape, dtype=bool)
    imports[buyers, sellers] = True
    exact = gain(offers.root[buyers], own, added) - offers.distance_prices[buyers, sellers]
    payments = np.zeros(imports.shape)
    payments[buyers, sellers] = np.maximum(exact, offers.cost[sellers])
    return np.minimum(payments, marginal_payments(offers, imports))
