"""Where institutions stand on the ring: those that trade with each other beside each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ring(ties: NDArray[np.float64]) -> list[float]:
    """Place nodes on a ring.

    Parameters
    ----------
    ties : float64 (m, m)
        Not negative: how much i bought from j.

    Returns
    -------
    list of float
        Each one's place, in [0, 1). Groups that never trade with each other are apart.
    """
    both = ties + ties.T
    groups = _groups(both > 0)
    # Between groups that have something between them, one place is left empty.
    gaps = len(groups) if len(groups) > 1 and len(groups[0]) > 1 else 0
    total = len(both) + gaps
    places = [0.0] * len(both)
    taken = 1 if gaps else 0  # the last gap is at the top: two groups face each other
    for group in groups:
        for i in _ordered(both, group):
            places[i] = taken / total
            taken += 1
        taken += 1 if gaps else 0
    return places


def _groups(tied: NDArray[np.bool_]) -> list[list[int]]:
    """Find what hangs together, the largest first."""
    unseen, groups = set(range(len(tied))), []
    while unseen:
        group, edge = [], [min(unseen)]
        unseen.discard(edge[0])
        while edge:
            i = edge.pop()
            group.append(i)
            found = [int(j) for j in np.flatnonzero(tied[i]) if int(j) in unseen]
            unseen.difference_update(found)
            edge += found
        groups.append(sorted(group))
    groups.sort(key=lambda group: (-len(group), group))
    # Who trades with nobody needs no distance from the others who don't.
    alone = [i for group in groups if len(group) == 1 for i in group]
    return [*(group for group in groups if len(group) > 1), *([alone] if alone else [])]


def _ordered(both: NDArray[np.float64], group: Sequence[int]) -> list[int]:
    """Order a group so that strong ties are short: by the Laplacian's second eigenvector."""
    if len(group) < 4:
        return list(group)
    part = both[np.ix_(group, group)]
    scaled = part / (part.max() or 1.0)
    laplacian = np.diag(scaled.sum(axis=1)) - scaled
    fiedler = np.linalg.eigh(laplacian)[1][:, 1]
    # Its sign is arbitrary, and may differ between machines.
    fiedler = fiedler * (1 if fiedler[np.argmax(np.abs(fiedler))] > 0 else -1)
    return [group[k] for k in np.argsort(np.round(fiedler, 9), kind="stable")]
