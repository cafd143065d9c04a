"""Local: every institution alone."""

import numpy as np

from ipfl_flower.experiment.methods.arithmetic import check_finite
from ipfl_flower.experiment.methods.base import Matrix, Method, Order, Played, Sites


class Local(Method):
    """θ_i ← argmin L_i(θ), from where it was: what an institution has without anybody."""

    name = "local"
    source = "no collaboration"

    def __init__(self, sites: Sites, options: object = None) -> None:
        super().__init__(sites, options)
        self._models: Matrix | None = None

    def play(self, number: int) -> Played:
        """Train on; nobody imports anything."""
        count = len(self.sites.samples)
        starts = [self.sites.initial] * count if self._models is None else list(self._models)
        self._models = self.sites.train(number, [Order(start) for start in starts], sent=False)
        check_finite(self._models, number)
        return Played(self._models, self._models, np.zeros((count, count), dtype=bool))
