"""pFedGraph.

Ye, Ni, Wu, Chen, Wang: Personalized federated learning with inferred collaboration graphs, ICML
2023, and the authors' code (MediaBrain-SJTU/pFedGraph, `pytorch/pfedgraph_cosine`).
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
    shares,
)
from ipfl_flower.experiment.methods.base import Matrix, Method, Order, Played, Sites


@dataclass(frozen=True)
class PFedGraphOptions:
    """The authors' defaults.

    Attributes
    ----------
    alpha
        α: how near the graph stays to the data volumes.
    weight
        λ of the local regulariser.
    snap
        Cosines above this count as 1, as in the authors' code.
    use
        What an institution uses: the "aggregate" it is sent, the model it "trained", or the
        "better" of the two on its validation data, as the authors report it.
    """

    alpha: float = 0.8
    weight: float = 0.01
    snap: float = 0.9
    use: Literal["better", "aggregate", "trained"] = "better"


class PFedGraph(Method):
    """The server infers whom each institution is to be averaged with.

    Row i of the graph is  argmin_{w in the simplex} α ‖w − p‖² − Σ_j w_j cos_ij,  p_j = N_j / Σ N,
    cos_ij between the updates θ − θ⁰ (of all parameters; the authors have a variant with the fully
    connected layers alone): the Euclidean projection of p + cos_i / (2α) onto the simplex, exactly.
    Its aggregate ḡ_i = Σ_j w_ij θ_j is where i starts the next round.

    Deviation: the local regulariser. The paper's is −λ Σ_j w_ij cos(θ, θ_j). Its gradient at
    ḡ_i + ε is, to first order, λ ‖c_i‖ ε_⊥ / ‖ḡ_i‖²: c_i = Σ_j w_ij θ_j / ‖θ_j‖, taken to point
    along ḡ_i, and ε_⊥ the part of ε across it. κ_i ‖θ − ḡ_i‖² with κ_i = λ ‖c_i‖ / (2 ‖ḡ_i‖²) has
    the same, and 2 κ_i times the part along ḡ_i on top, which the cosine leaves free. (The authors'
    code adds the cosine with a plus sign; as λ = 0.01 over ‖ḡ_i‖² is tiny, neither the sign nor
    that part changes what is learnt.)

    Imports are the w_ij, j ≠ i, above IMPORT_SHARE of the row's largest.
    """

    name = "pfedgraph"
    source = "Ye et al., ICML 2023"
    options_type = PFedGraphOptions
    options: PFedGraphOptions

    def __init__(self, sites: Sites, options: PFedGraphOptions | None = None) -> None:
        super().__init__(sites, options)
        self._orders = [Order(sites.initial)] * len(sites.samples)

    def play(self, number: int) -> Played:
        """Train from the aggregates, infer the graph, aggregate."""
        trained = self.sites.train(number, self._orders)
        check_finite(trained, number)
        weights = self._graph(trained)
        aggregates = mix(weights, trained)
        kappas = self._coefficients(weights, gram(trained))
        self._orders = [
            Order(aggregate, aggregate, float(kappa))
            for aggregate, kappa in zip(aggregates, kappas, strict=True)
        ]
        return Played(self._used(aggregates, trained), trained, imports_of(weights))

    def _graph(self, trained: Matrix) -> NDArray[np.float64]:
        cosine = cosines(gram(trained, self.sites.initial))
        cosine[cosine > self.options.snap] = 1.0
        return project(shares(self.sites.samples) + cosine / (2 * self.options.alpha))

    def _coefficients(
        self, weights: NDArray[np.float64], products: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return κ_i from the Gram matrix of the models themselves, (m,)."""
        squares = np.einsum("ij,jk,ik->i", weights, products, weights)
        lengths = np.sqrt(np.einsum("ij,jk,ik->i", weights, cosines(products), weights).clip(0.0))
        kappas: NDArray[np.float64] = np.divide(
            self.options.weight * lengths,
            2 * squares,
            out=np.zeros_like(squares),
            where=squares > 0,
        )
        return kappas

    def _used(self, aggregates: Matrix, trained: Matrix) -> Matrix:
        if self.options.use == "aggregate":
            return aggregates
        if self.options.use == "trained":
            return trained
        pairs = list(zip(aggregates, trained, strict=True))
        judged = self.sites.judge(pairs)
        return np.stack(
            [
                own if of_own.validation_accuracy > of_aggregate.validation_accuracy else aggregate
                for (aggregate, own), (of_aggregate, of_own) in zip(pairs, judged, strict=True)
            ]
        )


def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest point of the simplex to each row (Held, Wolfe, Crowder 1974), (r, m)."""
    descending = -np.sort(-points, axis=1)
    sizes = np.arange(1, points.shape[1] + 1)
    thresholds = (descending.cumsum(axis=1) - 1.0) / sizes
    # The support is the longest prefix whose smallest entry stays above its own threshold.
    support = (descending > thresholds).sum(axis=1)
    chosen = np.take_along_axis(thresholds, support[:, None] - 1, axis=1)
    return (points - chosen).clip(min=0.0)
