"""The continuous knapsack: a bound on every set's welfare, for many rows at once (see `exact`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market.gain import Bools, Floats, cube_root


@dataclass(frozen=True)
class Tangent:
    """A tangent to each row's gain: W(S) = U − Σ losses of the flips − D(x).

    Attributes
    ----------
    volume : float64 (p,)
        x°, in units of N_i.
    slope : float64 (p,)
        μ.
    bound : float64 (p,)
        U, in units of V_i: no set is worth more.
    """

    volume: Floats
    slope: Floats
    bound: Floats

    def rows(self, rows: NDArray[np.intp]) -> "Tangent":
        """Return some of the rows."""
        return Tangent(self.volume[rows], self.slope[rows], self.bound[rows])

    def bend(self, volume: Floats) -> Floats:
        """Return D(x), how far the welfare lies under its tangent, for one volume a row."""
        drop = 1.0 / np.sqrt(volume) - 1.0 / np.sqrt(self.volume)
        return drop + self.slope * (volume - self.volume)


@dataclass(frozen=True)
class Relaxation:
    """The continuous knapsack of each row, and what it costs to leave it.

    Attributes
    ----------
    tangent : Tangent
    base : bool (p, k)
        Who is in the base set.
    losses : float64 (p, k)
        |μ n_j − t_j|: the cost of a flip; infinite in the padding.
    """

    tangent: Tangent
    base: Bools
    losses: Floats


def relax(volumes: Floats, prices: Floats) -> Relaxation:
    """Fill each row by t/N until the next seller's price exceeds its slope, the last one partly.

    Parameters
    ----------
    volumes, prices : float64 (p, k)
        Scaled, sorted by price over volume; the last column has infinite prices.

    Returns
    -------
    Relaxation
    """
    p, k = volumes.shape
    reached = np.cumsum(np.column_stack((np.ones(p), volumes)), axis=1)
    after = reached[:, 1:]
    partly = prices > volumes / (2.0 * after * np.sqrt(after))
    place = np.argmax(partly, axis=1)
    rows = np.arange(p)
    # There φ' equals t/N: between the volumes before and after the seller that goes in partly.
    root = cube_root(volumes[rows, place] / (2.0 * prices[rows, place]))
    volume = np.minimum(np.maximum(root * root, reached[rows, place]), after[rows, place])
    slope = 1.0 / (2.0 * volume * np.sqrt(volume))
    profits = slope[:, None] * volumes - prices
    base = np.arange(k) < place[:, None]
    base[rows, place] = profits[rows, place] > 0
    profit = np.cumsum(np.where(base, profits, 0.0), axis=1)[:, -1]
    bound = 1.0 - 1.0 / np.sqrt(volume) + slope * (1.0 - volume) + profit
    return Relaxation(Tangent(volume, slope, bound), base, np.abs(profits))
