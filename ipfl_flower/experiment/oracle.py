"""What could be had by who knew the hidden groups: their members' average."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.methods.arithmetic import check_finite
from ipfl_flower.experiment.methods.base import Matrix, Method, Order, Played, Sites


class Oracle(Method):
    """FedAvg inside each hidden group, weighted by true samples: a yardstick, not a method.

    Parameters
    ----------
    sites : Sites
    groups : sequence
        The hidden group of each institution; None: it is alone.
    samples : int64 (m,)
        What they have, whatever they report.
    """

    name: ClassVar[str] = "oracle"
    source: ClassVar[str] = "knows the hidden groups"

    def __init__(
        self, sites: Sites, groups: Sequence[Hashable | None], samples: NDArray[np.int64]
    ) -> None:
        super().__init__(sites)
        m = len(groups)
        same = [[g is not None and g == other for other in groups] for g in groups]
        self._same = np.array(same) | np.eye(m, dtype=bool)
        weights = np.where(self._same, samples.astype(np.float64), 0.0)
        self._weights = weights / weights.sum(axis=1, keepdims=True)
        self._models: Matrix = np.tile(sites.initial, (m, 1))

    def play(self, number: int) -> Played:
        """Train from the groups' averages, and average again."""
        trained = self.sites.train(number, [Order(model) for model in self._models])
        check_finite(trained, number)
        self._models = (self._weights.astype(np.float32) @ trained).astype(np.float32)
        return Played(self._models, trained, self._same & ~np.eye(len(trained), dtype=bool))
