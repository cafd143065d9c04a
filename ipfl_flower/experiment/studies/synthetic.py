"""Markets without training: institutions' updates drawn around hidden directions of groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market import Terms
from ipfl_flower.market.gain import Floats

# Cosines of updates, as trained models show them (README of the results: sensitivity).
WITHIN: Final = 0.8
ACROSS: Final = 0.15
SAMPLES: Final = (40, 320)
"""Sizes are drawn between these, equally likely on a logarithmic scale."""

_LENGTH: Final = 0.1


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Institutions of a synthetic market; an update is made when it is asked for.

    Parameters
    ----------
    institutions, groups : int
        Institution i belongs to group i % groups.
    parameters : int
        D, of a model.
    seed : int
    """

    institutions: int
    groups: int
    parameters: int
    seed: int

    @property
    def samples(self) -> NDArray[np.int64]:
        """N_i, int64 (m,)."""
        low, high = np.log(SAMPLES)
        drawn = np.exp(self._rng(0).uniform(low, high, self.institutions))
        sizes: NDArray[np.int64] = np.rint(drawn).astype(np.int64)
        return sizes

    def updates(self) -> Iterator[NDArray[np.float32]]:
        """Yield v_i, float32 (D,): a part common to all, one of the group, one of its own."""
        common = self._direction(1)
        groups = [self._direction(2, group) for group in range(self.groups)]
        for i in range(self.institutions):
            own = self._direction(3, i)
            shared = np.sqrt(ACROSS) * common + np.sqrt(WITHIN - ACROSS) * groups[i % self.groups]
            yield (_LENGTH * (shared + np.sqrt(1.0 - WITHIN) * own)).astype(np.float32)

    def gram(self) -> Floats:
        """Return V Vᵀ, float64 (m, m); holds all updates."""
        rows = np.stack(list(self.updates())).astype(np.float64)
        products: Floats = rows @ rows.T
        return products

    def terms(self, value: float, cost: float) -> list[Terms]:
        """Return what is true of each: one c and one K for all, with V = `value` at the mean size.

        Parameters
        ----------
        value, cost : float
            Credits.
        """
        sizes = self.samples
        eagerness = value**2 * float(sizes.mean())
        return [Terms(samples=int(size), cost=cost, eagerness=eagerness) for size in sizes]

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what])

    def _direction(self, *what: int) -> NDArray[np.float64]:
        drawn = self._rng(*what).standard_normal(self.parameters)
        unit: NDArray[np.float64] = drawn / np.linalg.norm(drawn)
        return unit
