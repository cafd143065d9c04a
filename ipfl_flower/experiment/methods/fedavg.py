"""FedAvg, and FedAvg with fine-tuning.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-efficient learning of deep networks
from decentralized data, AISTATS 2017, Algorithm 1, with every client in every round (C = 1).
"""

from ipfl_flower.experiment.methods.arithmetic import average, check_finite, everybody, spread
from ipfl_flower.experiment.methods.base import Method, Order, Played, Sites, Vector


class FedAvg(Method):
    """w ← Σ_i (N_i / Σ N) θ_i, each θ_i trained from w. Everybody uses the average w."""

    name = "fedavg"
    source = "McMahan et al., AISTATS 2017"

    def __init__(self, sites: Sites, options: object = None) -> None:
        super().__init__(sites, options)
        self._shared: Vector = sites.initial

    def order(self, shared: Vector) -> Order:
        """Return what an institution does with the average it receives."""
        return Order(shared)

    def play(self, number: int) -> Played:
        """Train from the average of the round before, then average: everybody imports all."""
        count = len(self.sites.samples)
        trained = self.sites.train(number, [self.order(self._shared)] * count)
        check_finite(trained, number)
        self._shared = average(trained, self.sites.samples)
        return Played(spread(self._shared, count), trained, everybody(count))


class FedAvgFT(FedAvg):
    """FedAvg, of which each institution uses its own model, trained from the average.

    The fine-tuning after round t is the local training of round t + 1: no further steps are taken,
    so the budget is everybody else's. In round 0 that is training alone. (So does pFedGraph's
    repository, `fedavg_ft.py`; Ditto's fine-tunes once, after the last round, with steps of its
    own.)
    """

    name = "fedavg-ft"
    source = "McMahan et al., AISTATS 2017, fine-tuned locally"

    def play(self, number: int) -> Played:
        """As FedAvg; the models are those that institutions trained from the average."""
        played = super().play(number)
        return Played(played.trained, played.trained, played.imports)
