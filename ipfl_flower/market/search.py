"""Branching from the continuous knapsack to the best sets, for many rows at once (see `exact`)."""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market.gain import Bools, Floats
from ipfl_flower.market.relaxation import Relaxation, Tangent

_Kind = TypeVar("_Kind", bound=np.generic)

_QUANTUM: Final = 2.0**-40
"""Branching adds volumes and losses on this grid, exactly: equal sets meet in equal states."""
_CLIMBED: Final = (24, 96)
"""Sellers that the first climb looks at, and the second."""
_STATES: Final = 2**18
"""States that are branched on side by side: bounds the memory, never the result."""
_UNDOMINATED_MAX: Final = 32
"""States of a row above which dominated ones are looked for."""


@dataclass(frozen=True)
class _Core:
    """What is branched on: for each row the sellers whose flip may pay, the cheapest flip first.

    Volumes are only ever added up, never taken off: beside a seller 10¹² times as large, a
    difference would be worth nothing.

    Attributes
    ----------
    tangent : Tangent
    fixed : float64 (p,)
        1 + Σ n of the base sellers that keep their place.
    places : intp (p, w)
    base : bool (p, w)
        Who is in the base set; False in the padding.
    volumes, losses : float64 (p, w)
        0 and infinite in the padding.
    """

    tangent: Tangent
    fixed: Floats
    places: NDArray[np.intp]
    base: Bools
    volumes: Floats
    losses: Floats

    def rows(self, rows: NDArray[np.intp]) -> "_Core":
        """Return some of the rows."""
        return _Core(
            self.tangent.rows(rows),
            self.fixed[rows],
            self.places[rows],
            self.base[rows],
            self.volumes[rows],
            self.losses[rows],
        )

    def worth(self, chosen: Bools) -> Floats:
        """Return W of each row's base set with the core's part replaced by `chosen`, (p, w)."""
        volume = self.fixed + _total(chosen, self.volumes)
        losses = _total(chosen ^ self.base, self.losses)
        return self.tangent.bound - losses - self.tangent.bend(volume)


def search(
    relaxed: Relaxation, volumes: Floats, tolerance: float, node_cap: int
) -> tuple[Bools, Bools]:
    """Branch from the base sets to the best ones.

    Parameters
    ----------
    relaxed : Relaxation
    volumes : float64 (p, k)
    tolerance : float
        What the result may fall short of the optimum, in units of V_i.
    node_cap : int
        States that one row may visit.

    Returns
    -------
    chosen : bool (p, k)
    capped : bool (p,)
        The search was cut short.
    """
    tangent, chosen = relaxed.tangent, relaxed.base.copy()
    capped = np.zeros(len(chosen), dtype=bool)
    gap = tangent.bend(1.0 + _total(chosen, volumes)) - tolerance
    candidates = relaxed.losses < gap[:, None]
    rows = np.flatnonzero(candidates.any(axis=1))
    if not rows.size:
        return chosen, capped
    part = Relaxation(tangent.rows(rows), relaxed.base[rows], relaxed.losses[rows])
    core = _core(part, volumes[rows], candidates[rows])
    flips, capped[rows] = _branch(core, _climb(core, tolerance), tolerance, node_cap)
    flipped, items = np.nonzero(_unpack(flips, core.places.shape[1]))
    at = rows[flipped], core.places[flipped, items]
    chosen[at] = ~chosen[at]
    return chosen, capped


def _total(mask: Bools, numbers: Floats) -> Floats:
    """Sum each row's masked numbers in the order of the columns: padding changes nothing."""
    return np.cumsum(np.where(mask, numbers, 0.0), axis=1)[:, -1]


def _core(relaxed: Relaxation, volumes: Floats, candidates: Bools) -> _Core:
    rows, places = np.nonzero(candidates)
    counts = candidates.sum(axis=1)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(counts), int(counts.max())
    losses = np.full(shape, np.inf)
    losses[rows, columns] = relaxed.losses[rows, places]
    table = np.zeros(shape, dtype=np.intp)
    table[rows, columns] = places
    added = np.where(losses < np.inf, np.take_along_axis(volumes, table, axis=1), 0.0)
    added = np.rint(added / _QUANTUM) * _QUANTUM
    losses = np.rint(losses / _QUANTUM) * _QUANTUM
    order = np.lexsort((added, losses), axis=1)
    added = np.take_along_axis(added, order, axis=1)
    losses = np.take_along_axis(losses, order, axis=1)
    table = np.take_along_axis(table, order, axis=1)
    real = losses < np.inf
    return _Core(
        relaxed.tangent,
        1.0 + _total(relaxed.base & ~candidates, volumes),
        table,
        real & np.take_along_axis(relaxed.base, table, axis=1),
        added,
        losses,
    )


def _climb(core: _Core, tolerance: float) -> Bools:
    """Return a good set, (p, w), to start from: the base set, improved by two flips at a time."""
    chosen = core.base.copy()
    worth = core.worth(chosen)
    for width in _CLIMBED:
        _climb_within(core, chosen, worth, width, tolerance)
    return chosen


def _climb_within(core: _Core, chosen: Bools, worth: Floats, width: int, tolerance: float) -> None:
    """Improve the sets and their worth, in place, by flips of the `width` cheapest sellers."""
    first, second = np.triu_indices(min(chosen.shape[1], width))
    alone = first == second
    rows = np.arange(len(chosen))
    if width > _CLIMBED[0]:  # a second climb, where the first left much to branch on
        gap = core.tangent.bound - worth - tolerance
        rows = np.flatnonzero((core.losses < gap[:, None]).sum(axis=1) > _CLIMBED[0])
    while True:
        rows = rows[core.tangent.bound[rows] - worth[rows] > tolerance]
        if not rows.size:
            return
        some, now = core.rows(rows), chosen[rows]
        steps = np.where(now, -some.volumes, some.volumes)
        losses = np.where(now ^ some.base, -some.losses, some.losses)
        volume = steps[:, first] + np.where(alone, 0.0, steps[:, second])
        volume += (some.fixed + _total(now, some.volumes))[:, None]
        volume = np.maximum(volume, 1.0)  # a difference only proposes: the set is summed anew below
        drop = 1.0 / np.sqrt(volume) + some.tangent.slope[:, None] * volume
        loss = losses[:, first] + np.where(alone, 0.0, losses[:, second])
        pair = np.argmin(drop + loss, axis=1)
        here = np.arange(len(rows))
        flips = np.zeros_like(now)
        flips[here, first[pair]] = flips[here, second[pair]] = True
        found = some.worth(now ^ flips)
        better = found > worth[rows] + tolerance
        rows = rows[better]
        chosen[rows] ^= flips[better]
        worth[rows] = found[better]


def _branch(
    core: _Core, start: Bools, tolerance: float, node_cap: int
) -> tuple[NDArray[np.uint64], Bools]:
    """Decide on one seller of every row at a time, the dearest flip first.

    A state is a row, the volume decided on, the losses so far, and its flips as bits.
    """
    tangent = core.tangent
    best, best_flips = core.worth(start), _pack(core.base ^ start)
    left = (core.losses < (tangent.bound - best - tolerance)[:, None]).sum(axis=1)
    base, everything = _reach(np.where(core.base, core.volumes, 0.0)), _reach(core.volumes)
    settled = core.base & (np.arange(core.base.shape[1]) >= left[:, None])
    visited = np.zeros(len(left), dtype=np.int64)
    rows = np.flatnonzero(left > 0)
    volumes = (core.fixed + _total(settled, core.volumes))[rows]
    pending = [(rows, volumes, np.zeros(len(rows)), np.zeros_like(best_flips[rows]))]
    while pending:
        row, volume, loss, flips = pending.pop()
        if len(row) > _STATES and row[0] != row[-1]:  # rows are independent: do half of them first
            middle = max(np.searchsorted(row, row[len(row) // 2]), np.searchsorted(row, row[0] + 1))
            cut = slice(middle, None), slice(None, middle)
            pending += [(row[part], volume[part], loss[part], flips[part]) for part in cut]
            continue
        item = left[row] - 1
        added, kept = core.volumes[row, item], core.base[row, item]
        volume = _interleave(
            np.where(kept, volume + added, volume), np.where(kept, volume, volume + added)
        )
        loss = _interleave(loss, loss + core.losses[row, item])
        flips = _interleave(flips, _with_bit(flips, item))
        row = np.repeat(row, 2)
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        left[row[starts]] -= 1
        visited[row[starts]] += np.diff(starts, append=len(row))
        rest, tangents = left[row], tangent.rows(row)
        value = tangents.bound - loss - tangents.bend(volume + base[row, rest])
        _take_best(row, starts, value, flips, best, best_flips)
        nearest = np.clip(tangents.volume, volume, volume + everything[row, rest])
        hope = tangents.bound - loss - tangents.bend(nearest)
        keep = (hope > best[row] + tolerance) & (rest > 0) & (visited[row] <= node_cap)
        row, volume, loss, flips = row[keep], volume[keep], loss[keep], flips[keep]
        keep = _undominated(row, volume, loss, tangent.slope[row])
        if keep.any():
            pending.append((row[keep], volume[keep], loss[keep], flips[keep]))
    return best_flips, visited > node_cap


def _reach(steps: Floats) -> Floats:
    """Return what the first 0, 1, … steps add up to."""
    return np.cumsum(np.column_stack((np.zeros(len(steps)), steps)), axis=1)


def _take_best(
    row: NDArray[np.intp],
    starts: NDArray[np.intp],
    value: Floats,
    flips: NDArray[np.uint64],
    best: Floats,
    best_flips: NDArray[np.uint64],
) -> None:
    """Update each row's best set, in place, with the best of its states."""
    top = np.maximum.reduceat(value, starts)
    here = row[starts]
    better = top > best[here]
    best[here] = np.where(better, top, best[here])
    sizes = np.diff(starts, append=len(row))
    hits = np.flatnonzero((value == np.repeat(top, sizes)) & np.repeat(better, sizes))
    rows, first = np.unique(row[hits], return_index=True)
    best_flips[rows] = flips[hits[first]]


def _undominated(row: NDArray[np.intp], volume: Floats, loss: Floats, slope: Floats) -> Bools:
    """Mark the states worth going on from: no other of the row has more volume for less.

    With the same sellers still to decide on, more volume at a lower price ends better, whatever is
    decided. Looked for in large rows alone; which those are depends on each row alone.
    """
    keep = np.ones(len(row), dtype=bool)
    large = np.flatnonzero((np.bincount(row) > _UNDOMINATED_MAX)[row])
    if not large.size:
        return keep
    price = loss + slope * volume
    order = large[np.lexsort((price[large], -volume[large], row[large]))]
    rank = np.empty(len(order), dtype=np.int64)
    rank[np.argsort(price[order], kind="stable")] = np.arange(len(order))
    # A later row's ranks all lie under an earlier one's: the running minimum starts anew with it.
    rank -= row[order] * len(order)
    lowest = np.minimum.accumulate(rank)
    keep[order[1:]] = rank[1:] < lowest[:-1]
    return keep


def _interleave(kept: NDArray[_Kind], flipped: NDArray[_Kind]) -> NDArray[_Kind]:
    both = np.empty((2 * len(kept), *kept.shape[1:]), dtype=kept.dtype)
    both[::2], both[1::2] = kept, flipped
    return both


def _pack(flips: Bools) -> NDArray[np.uint64]:
    p, w = flips.shape
    padded = np.zeros((p, -(-w // 64) * 64), dtype=bool)
    padded[:, :w] = flips
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")


def _unpack(flips: NDArray[np.uint64], width: int) -> Bools:
    return np.unpackbits(flips.view(np.uint8), axis=1, count=width, bitorder="little") > 0


def _with_bit(flips: NDArray[np.uint64], item: NDArray[np.intp]) -> NDArray[np.uint64]:
    flipped = flips.copy()
    bit = np.uint64(1) << (item % 64).astype(np.uint64)
    flipped[np.arange(len(item)), item // 64] |= bit
    return flipped
