"""Which models a buyer imports, by thresholds: `greedy` and `skip` (mechanism.md §3)."""

from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipfl_flower.market.gain import Bools, Floats, cube_root, gain
from ipfl_flower.market.offers import Offers, leave_out

_NEWTON_STEPS: Final = 6  # starts at most 22 % too high, and squares its relative error
_CHEAP: Final = 1e-100
_DEAR: Final = 1e100


def threshold(volume: ArrayLike, price: ArrayLike, eagerness: ArrayLike) -> Floats:
    """Return N_th: the volume, own data and all imports, up to which a model is worth its price.

    The x > N_j with √(K/(x − N_j)) − √(K/x) = t (mechanism.md §3).

    Parameters
    ----------
    volume : float64 array
        N_ij > 0, samples.
    price : float64 array, broadcast against `volume`
        t_ij, credits.
    eagerness : float64 array, broadcast against `volume`
        K_i > 0, credits² · samples.

    Returns
    -------
    float64 array
        Samples; +∞ for t ≤ 0, and beyond 10⁶⁶ N.

    Notes
    -----
    With w = (√x − √(x − N)) / √N the equation is w⁴ + ρw³ = 1, ρ = 4 √(K/N) / t: convex and
    increasing on (0, 1], so Newton from min(1, ρ^(−1/3)), which lies above the root, falls to it.
    Then x = N ((w + 1/w) / 2)².
    """
    arrays = (np.asarray(a, dtype=np.float64) for a in (volume, price, eagerness))
    n, t, k = np.broadcast_arrays(*arrays)
    return _threshold(n, t, np.sqrt(k))


def _threshold(volume: Floats, price: Floats, root: Floats) -> Floats:
    with np.errstate(over="ignore"):
        inverse = np.maximum(price, 0.0) / root * np.sqrt(volume) / 4.0  # 1 / ρ
    usual = (inverse > _CHEAP) & (inverse < _DEAR)
    inverse_safe = np.where(usual, inverse, 1.0)
    rho = 1.0 / inverse_safe
    w = np.minimum(1.0, cube_root(inverse_safe))
    for _ in range(_NEWTON_STEPS):
        w = w - (w * w + rho * w - 1.0 / w / w) / (4.0 * w + 3.0 * rho)
    half = (w + 1.0 / w) / 2.0
    return np.where(usual, volume * half * half, np.where(inverse < 1.0, inf, volume))


@dataclass(frozen=True)
class Ranking:
    """Each buyer's sellers in the order in which the greedy looks at them.

    N_th descending, then t ascending, then position. What is not tradable comes last, with
    threshold 0 and an infinite price; there is at least one such (the buyer itself).

    Attributes
    ----------
    own, root : float64 (p,)
        N_i and √K_i.
    sellers : intp (p, k)
    thresholds, volumes, prices : float64 (p, k)
    """

    own: Floats
    root: Floats
    sellers: NDArray[np.intp]
    thresholds: Floats
    volumes: Floats
    prices: Floats

    def without(self, buyers: NDArray[np.intp], places: NDArray[np.intp]) -> "Ranking":
        """Return the rows `buyers`, each without the seller in its place `places`."""
        rows, index = buyers[:, None], leave_out(places, self.sellers.shape[1])
        return Ranking(
            self.own[buyers],
            self.root[buyers],
            self.sellers[rows, index],
            self.thresholds[rows, index],
            self.volumes[rows, index],
            self.prices[rows, index],
        )


def rank(offers: Offers) -> Ranking:
    """Sort each buyer's sellers by threshold.

    Parameters
    ----------
    offers : Offers

    Returns
    -------
    Ranking
    """
    tradable = offers.prices < inf
    thresholds = np.zeros(tradable.shape)
    buyers, _ = np.nonzero(tradable)
    thresholds[tradable] = _threshold(
        offers.volumes[tradable], offers.prices[tradable], offers.root[buyers]
    )
    width = int(tradable.sum(axis=1).max()) + 1
    order = np.lexsort((offers.prices, -thresholds), axis=1)[:, :width]
    thresholds, volumes, prices = (
        np.take_along_axis(a, order, axis=1) for a in (thresholds, offers.volumes, offers.prices)
    )
    return Ranking(offers.own, offers.root, order, thresholds, volumes, prices)


def walk(ranking: Ranking, *, stop: bool) -> tuple[Bools, Floats]:
    """Go through the ranked sellers and take each that is worth its price on top of those taken.

    Parameters
    ----------
    ranking : Ranking
    stop : bool
        At the first that is not: `greedy`. Otherwise pass over it and go on: `skip`.

    Returns
    -------
    taken : bool (p, k)
    before : float64 (p, k)
        The volume that the walk stands at before each place, samples.
    """
    own, root = ranking.own, ranking.root
    if stop:
        reached = np.cumsum(np.column_stack((own, ranking.volumes)), axis=1)
        before = reached[:, :-1]
        worth = _worth(root[:, None], before, ranking.volumes, ranking.prices)
        return np.logical_and.accumulate(worth, axis=1), before
    taken = np.zeros(ranking.prices.shape, dtype=bool)
    before = np.empty(ranking.prices.shape)
    volume = own
    for place in range(ranking.prices.shape[1]):
        before[:, place] = volume
        added = ranking.volumes[:, place]
        taken[:, place] = _worth(root, volume, added, ranking.prices[:, place])
        volume = np.where(taken[:, place], volume + added, volume)
    return taken, before


def _worth(root: Floats, volume: Floats, added: Floats, prices: Floats) -> Bools:
    """Test n + N_j < N_th by the gain in φ, which needs no root; what is free always passes."""
    return (gain(root, volume, added) > prices) | (prices <= 0)
