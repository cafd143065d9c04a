"""What could be had by who knew the hidden groups: their members' average."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np

from ipfl_flower.experiment.methods.base import Matrix, Method, Order, Played, Sites


class Oracle(Method):
    """FedAvg inside each hidden group, weighted by samples: a yardstick, not a method.

    Parameters
    ----------
    sites : Sites
    groups : sequence
        The hidden group of each institution; None: it is alone.
    """

    name: ClassVar[str] = "oracle"
    source: ClassVar[str] = "knows the hidden groups"

    def __init__(self, sites: Sites, groups: Sequence[Hashable | None]) -> None:
        super().__init__(sites)
        m = len(groups)
        same = [[g is not None and g == other for other in groups] for g in groups]
        self._same = np.array(same) | np.eye(m, dtype=bool)
        weights = np.where(self._same, sites.samples.astype(np.float64), 0.0)
        self._weights = weights / weights.sum(axis=1, keepdims=True)
        self._models: Matrix = np.tile(sites.initial, (m, 1))

    def play(self, number: int) -> Played:
        """Train from the groups' averages, and average again."""
        trained = self.sites.train(number, [Order(model) for model in self._models])
        self._models = (self._weights.astype(np.float32) @ trained).astype(np.float32)
        return Played(self._models, trained, self._same & ~np.eye(len(trained), dtype=bool))
