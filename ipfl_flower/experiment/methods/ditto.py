"""Ditto.

Li, Hu, Beirami, Smith: Ditto: fair and robust federated learning through personalization, ICML
2021, Algorithm 1 with FedAvg as its solver of the global model.
"""

from dataclasses import dataclass

from ipfl_flower.experiment.methods.arithmetic import average, check_finite, everybody
from ipfl_flower.experiment.methods.base import Matrix, Method, Order, Played, Sites, Vector


@dataclass(frozen=True)
class DittoOptions:
    """λ of (λ/2) ‖v_i − w‖²: 1 in the authors' scripts, 0.05 to 2 in their paper."""

    weight: float = 1.0


class Ditto(Method):
    """Each institution has a personal v_i beside the global w.

    w is FedAvg's. v_i ← argmin L_i(v) + (λ/2) ‖v − w‖² from v_i, near the w that the round began
    with. Both see the same batches, as in the authors' code, and take a round's steps each.

    The authors average the updates of devices that they sample with probability N_i / Σ N; with
    everybody in every round that is the weighted average.
    """

    name = "ditto"
    source = "Li et al., ICML 2021"
    local_trainings = 2
    options_type = DittoOptions
    options: DittoOptions

    def __init__(self, sites: Sites, options: DittoOptions | None = None) -> None:
        super().__init__(sites, options)
        self._shared: Vector = sites.initial
        self._personal: Matrix | None = None

    def play(self, number: int) -> Played:
        """Train both models of everybody; the personal ones are used, the others averaged."""
        count = len(self.sites.samples)
        own = [self.sites.initial] * count if self._personal is None else list(self._personal)
        near = self._shared
        trained = self.sites.train(number, [Order(near)] * count)
        check_finite(trained, number)
        self._personal = self.sites.train(
            number, [Order(start, near, self.options.weight / 2) for start in own], sent=False
        )
        check_finite(self._personal, number)
        self._shared = average(trained, self.sites.samples)
        return Played(self._personal, trained, everybody(count))
