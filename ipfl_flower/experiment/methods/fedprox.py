"""FedProx.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated optimization in heterogeneous networks,
MLSys 2020, Algorithm 2.
"""

from dataclasses import dataclass

from ipfl_flower.experiment.methods.base import Order, Vector
from ipfl_flower.experiment.methods.fedavg import FedAvg


@dataclass(frozen=True)
class FedProxOptions:
    """μ of (μ/2) ‖θ − w‖²; the authors choose it from {0.001, 0.01, 0.1, 1} for each data set."""

    mu: float = 0.01


class FedProx(FedAvg):
    """θ_i ≈ argmin L_i(θ) + (μ/2) ‖θ − w‖² from the average w; then averaged as in FedAvg.

    The authors sample devices with probability N_i / Σ N and average plainly; with everybody in
    every round that is the weighted average. Nobody straggles, so all take the same steps.
    """

    name = "fedprox"
    source = "Li et al., MLSys 2020"
    options_type = FedProxOptions
    options: FedProxOptions

    def order(self, shared: Vector) -> Order:
        """Return training near the average, κ = μ/2."""
        return Order(shared, shared, self.options.mu / 2)
