"""FedAMP and its heuristic for deep networks, HeurFedAMP.

Huang, Chu, Zhou, Wang, Liu, Pei, Zhang: Personalized cross-silo federated learning on non-IID data,
AAAI 2021, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.methods.arithmetic import (
    check_finite,
    cosines,
    gram,
    imports_of,
    mix,
    squared_distances,
)
from ipfl_flower.experiment.methods.base import Matrix, Method, Order, Played, Sites


@dataclass(frozen=True)
class FedAmpOptions:
    """How models attract each other.

    Attributes
    ----------
    attention
        "distance": FedAMP; "cosine": HeurFedAMP, which its authors use for deep networks.
    sigma
        σ. For "distance" in units of ‖θ_i − θ_j‖², where None is their mean over all pairs after
        round 0: the authors choose σ for each model. For "cosine" the steepness of the softmax,
        where None is 10.
    self_weight
        ξ_ii of HeurFedAMP.
    step
        α_k. For "distance" None is σ/m, the longest with which each ξ_ii stays ≥ 1/m; for "cosine"
        1. It divides λ in both.
    weight
        λ.
    """

    attention: Literal["distance", "cosine"] = "cosine"
    sigma: float | None = None
    self_weight: float = 0.3
    step: float | None = None
    weight: float = 1.0


class FedAmp(Method):
    """The server mixes a u_i for everybody, who trains near it.

    u_i = ξ_ii θ_i + Σ_{j≠i} ξ_ij θ_j, with

    FedAMP: A(x) = 1 − exp(−x/σ), ξ_ij = α_k A'(‖θ_i − θ_j‖²) = (α_k/σ) exp(−‖θ_i − θ_j‖²/σ), and
    ξ_ii = 1 − Σ_{j≠i} ξ_ij;

    HeurFedAMP: ξ_ij = (1 − ξ_ii) exp(σ cos_ij) / Σ_{h≠i} exp(σ cos_ih), ξ_ii given.

    θ_i ← argmin L_i(θ) + λ/(2 α_k) ‖θ − u_i‖², from its own θ_i. It uses θ_i.

    Deviations. Round 0 trains alone: all start at θ⁰, so there is nothing to hear yet. α_k is the
    same in every round (the authors divide it by 10 every 30 rounds). Where a given α_k makes
    Σ_j ξ_ij exceed 1, the ξ_ij are scaled to sum to 1, for the authors require a convex
    combination. cos_ij is of updates θ − θ⁰, as in the code of pFedGraph's (and iPFL's) authors,
    whose σ and ξ_ii are the defaults; the paper's is of θ, which a common θ⁰ brings near 1.

    Imports are the ξ_ij, j ≠ i, above IMPORT_SHARE of the row's largest, of the u_i that the round
    ends with.
    """

    name = "fedamp"
    source = "Huang et al., AAAI 2021"
    options_type = FedAmpOptions
    options: FedAmpOptions

    def __init__(self, sites: Sites, options: FedAmpOptions | None = None) -> None:
        super().__init__(sites, options)
        self._orders = [Order(sites.initial)] * len(sites.samples)
        self._sigma: float | None = None

    def play(self, number: int) -> Played:
        """Train near what the server mixed, and mix again."""
        trained = self.sites.train(number, self._orders)
        check_finite(trained, number)
        weights, step = self._attention(trained)
        kappa = self.options.weight / (2 * step)
        clouds = mix(weights, trained)
        self._orders = [
            Order(own, cloud, kappa) for own, cloud in zip(trained, clouds, strict=True)
        ]
        return Played(trained, trained, imports_of(weights))

    def _attention(self, trained: Matrix) -> tuple[NDArray[np.float64], float]:
        """Return ξ, (m, m), and α_k."""
        products = gram(trained, self.sites.initial)
        if self.options.attention == "cosine":
            sigma = 10.0 if self.options.sigma is None else self.options.sigma
            weights = heuristic_attention(cosines(products), sigma, self.options.self_weight)
            return weights, self.options.step or 1.0
        distances = squared_distances(products)
        # Kept: a σ that shrank with the distances would draw all models together.
        self._sigma = self._sigma or self.options.sigma or _mean_off_diagonal(distances)
        sigma = self._sigma
        step = self.options.step or sigma / len(trained)
        return attention(distances, sigma, step), step


def attention(distances: NDArray[np.float64], sigma: float, step: float) -> NDArray[np.float64]:
    """Return FedAMP's ξ from squared distances, (m, m); rows sum to 1."""
    weights: NDArray[np.float64] = step / sigma * np.exp(-distances / sigma)
    np.fill_diagonal(weights, 0.0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    np.fill_diagonal(weights, 1.0 - weights.sum(axis=1))
    return weights


def heuristic_attention(
    cosine: NDArray[np.float64], sigma: float, self_weight: float
) -> NDArray[np.float64]:
    """Return HeurFedAMP's ξ, (m, m); rows sum to 1, and one alone hears itself."""
    if len(cosine) == 1:
        return np.ones((1, 1))
    exponents = sigma * cosine
    np.fill_diagonal(exponents, -np.inf)
    weights: NDArray[np.float64] = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    weights *= (1.0 - self_weight) / weights.sum(axis=1, keepdims=True)
    np.fill_diagonal(weights, self_weight)
    return weights


def _mean_off_diagonal(distances: NDArray[np.float64]) -> float:
    """Return the mean squared distance of two models, 1 where all are equal or there is one."""
    pairs = len(distances) * (len(distances) - 1)
    return float(distances.sum()) / pairs if distances.any() else 1.0
