"""One round's numbers as every part of the market reads them: who could buy what, at what price."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipfl_flower.market.gain import Bools, Floats
from ipfl_flower.market.terms import Rules, Terms

ROUNDING: Final = 1e-6
"""A distance this far below zero is rounding, and counts as zero."""


class ClearingError(ValueError):
    """The inputs of a clearing don't fit together; the message names which and the fix."""


_CHUNK: Final = 2**20
"""Numbers that a chunk of rows may hold: bounds the memory, never the result."""


@dataclass(frozen=True)
class Offers:
    """What each buyer could import, and at what price (mechanism.md §2, §8).

    Attributes
    ----------
    own : float64 (p,)
        N_i, samples; 1 where it is 0, since who has no samples does not trade.
    root : float64 (p,)
        √K_i.
    cost : float64 (m,)
        c_j, credits.
    volumes : float64 (p, m)
        N_ij = min(N_j, cap · N_i), samples.
    distance_prices : float64 (p, m)
        δ_ij, credits; 0 where not tradable.
    prices : float64 (p, m)
        t_ij = c_j + δ_ij, credits; `inf` where not tradable. Never tradable: one's own model.
    """

    own: Floats
    root: Floats
    cost: Floats
    volumes: Floats
    distance_prices: Floats
    prices: Floats

    def rows(self, buyers: Bools) -> "Offers":
        """Return the offers to some of the buyers.

        Parameters
        ----------
        buyers : bool (p,)
        """
        return Offers(
            self.own[buyers],
            self.root[buyers],
            self.cost,
            self.volumes[buyers],
            self.distance_prices[buyers],
            self.prices[buyers],
        )


def chunks(count: int, width: int) -> Iterator[slice]:
    """Cut `count` rows of `width` numbers each into parts that fit the memory.

    Yields
    ------
    slice
    """
    rows = max(1, _CHUNK // max(1, width))
    for first in range(0, count, rows):
        yield slice(first, first + rows)


def leave_out(place: NDArray[np.intp], width: int) -> NDArray[np.intp]:
    """Return, for each row, the columns 0 … width − 1 without the one in `place`.

    Parameters
    ----------
    place : intp (p,)
    width : int

    Returns
    -------
    intp (p, width − 1)
    """
    columns = np.arange(width - 1)
    return columns + (columns >= place[:, None])


def clamped_volumes(samples: Floats, max_volume_ratio: float) -> Floats:
    """Return N_ij = min(N_j, cap · N_i) (mechanism.md §8).

    Parameters
    ----------
    samples : float64 (m,)
        N, samples.
    max_volume_ratio : float
        The cap; may be `inf`.

    Returns
    -------
    float64 (m, m)
        Row = buyer, column = seller; samples.
    """
    with np.errstate(over="ignore"):
        limit = np.where(samples > 0, samples, 1.0) * max_volume_ratio
    return np.minimum(samples[None, :], limit[:, None])


def make_offers(
    terms: Sequence[Terms], distances: ArrayLike, rules: Rules, active: ArrayLike | None
) -> Offers:
    """Check one round's inputs and turn them into offers.

    Parameters
    ----------
    terms : sequence of m Terms
    distances : float64 (m, m)
        d_ij; NaN: j is not tradable for i. The diagonal is ignored.
    rules : Rules
    active : bool (m,) or None
        Who takes part; None: everybody.

    Returns
    -------
    Offers

    Raises
    ------
    ClearingError
        If a shape is wrong, or a distance infinite or below zero by more than `ROUNDING`.
    """
    m = len(terms)
    clean = _clean_distances(distances, m)
    present = np.ones(m, dtype=bool) if active is None else np.asarray(active)
    if present.shape != (m,) or present.dtype != np.bool_:
        raise ClearingError(
            f"active is {present.dtype} {present.shape}: it must be bool ({m},), one an institution"
        )
    samples = np.array([t.samples for t in terms], dtype=np.float64)
    cost = np.array([t.cost for t in terms], dtype=np.float64)
    root = np.sqrt(np.array([t.eagerness for t in terms], dtype=np.float64))
    trades = present & (samples > 0)
    tradable = (trades & (root > 0))[:, None] & (trades & (cost < inf))[None, :]
    tradable &= ~np.isnan(clean)
    np.fill_diagonal(tradable, val=False)
    own = np.where(samples > 0, samples, 1.0)
    volumes = clamped_volumes(samples, rules.max_volume_ratio)
    tradable &= volumes > 0
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is dear beyond any gain
        scaled = rules.distance_weight * (volumes / own[:, None])
        distance_prices = np.where((scaled == 0) | (clean == 0), 0.0, scaled * clean)
        prices = np.where(tradable, cost[None, :] + distance_prices, inf)
    tradable = prices < inf
    return Offers(own, root, cost, volumes, np.where(tradable, distance_prices, 0.0), prices)


def _clean_distances(distances: ArrayLike, m: int) -> Floats:
    clean = np.array(distances, dtype=np.float64)
    if clean.shape != (m, m):
        raise ClearingError(
            f"distances is {clean.shape}: it must be ({m}, {m}), as there are terms"
        )
    np.fill_diagonal(clean, 0.0)
    for wrong, what in ((np.isinf(clean), "infinite"), (clean < -ROUNDING, "negative")):
        if wrong.any():
            i, j = np.argwhere(wrong)[0].tolist()
            raise ClearingError(
                f"the distance of buyer {i} and seller {j} is {what}, {clean[i, j]:g}: "
                "give NaN for what can't be traded"
            )
    return np.where(clean < 0, 0.0, clean)
