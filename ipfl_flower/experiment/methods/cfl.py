"""CFL: clustered federated learning.

Sattler, Müller, Samek: Clustered federated learning: model-agnostic distributed multitask
optimization under privacy constraints, IEEE TNNLS 2020 (arXiv 1910.01991), and the authors' code
(felisat/clustered-federated-learning).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.methods.arithmetic import check_finite, cosines, gram, mix, shares
from ipfl_flower.experiment.methods.base import Method, Order, Played, Sites, Vector

_STATIONARY_SHARE = 0.25
# Of the length that the mean of independent updates has: so much shorter, they pull apart.
_NOISE_SHARE = 0.75


@dataclass(frozen=True)
class CflOptions:
    """When a cluster is split.

    Attributes
    ----------
    stationary
        ε1: its mean update must be shorter than this, in units of a parameter's. None: than a
        quarter of its longest update, the ratio of the authors' ε1 = 0.4 and ε2 = 1.6, which fit
        their model and steps alone; and than 3/4 of what it would be if updates were independent,
        √(Σ w_i² ‖Δ_i‖²). That falls with 1/√m: from 16 members on, the mean of noise alone is
        shorter than a quarter, and would split members that are alike.
    apart
        ε2: its longest update must be longer than this.
    gamma_max
        γ_max in [0, 1): bound of the relative deviation of an institution's update from that of
        its whole population; 0, as in the authors' code, splits all that ε1 and ε2 allow.
    first_round
        No split before this round; the authors' code waits for 20 of its 80.
    """

    stationary: float | None = None
    apart: float = 0.0
    gamma_max: float = 0.0
    first_round: int = 0


class Cfl(Method):
    """FedAvg in one cluster, until it is stationary while its members still pull apart.

    Of a cluster's updates Δ_i = θ_i − θ_c, its mean (by samples) shorter than ε1 and the longest
    longer than ε2, the two parts are those with the least largest cosine α_cross between them
    (the paper's Algorithm 1), if √((1 − α_cross)/2) > γ_max. Each part is then averaged on its own,
    in the same round. Members use their cluster's model.

    Deviations: as in the authors' code, a cluster of two stays, and parts are final. The code finds
    parts by complete linkage; here it is the paper's algorithm, which is single linkage. The code
    averages plainly; here it is by samples, as in the paper's objective.
    """

    name = "cfl"
    source = "Sattler et al., IEEE TNNLS 2020"
    options_type = CflOptions
    options: CflOptions

    def __init__(self, sites: Sites, options: CflOptions | None = None) -> None:
        super().__init__(sites, options)
        self._clusters = [np.arange(len(sites.samples))]
        self._models: list[Vector] = [sites.initial]

    def play(self, number: int) -> Played:
        """Train from the clusters' models, split what must be, average within clusters."""
        samples = self.sites.samples
        starts = np.empty(len(samples), dtype=object)
        for members, model in zip(self._clusters, self._models, strict=True):
            for i in members:
                starts[i] = model
        trained = self.sites.train(number, [Order(start) for start in starts])
        check_finite(trained, number)
        parts = []
        for members, model in zip(self._clusters, self._models, strict=True):
            parts += self._split(number, members, gram(trained, model, members))
        self._clusters = parts
        self._models = [mix(shares(samples[p])[None, :], trained, p)[0] for p in parts]
        models = np.empty_like(trained)
        imports = np.zeros((len(samples), len(samples)), dtype=bool)
        for members, model in zip(self._clusters, self._models, strict=True):
            models[members] = model
            imports[np.ix_(members, members)] = True
        np.fill_diagonal(imports, False)
        return Played(models, trained, imports)

    def _split(
        self, number: int, members: NDArray[np.int64], products: NDArray[np.float64]
    ) -> list[NDArray[np.int64]]:
        """Return the cluster, or its two parts, given the Gram matrix of its members' updates."""
        if len(members) <= 2 or number < self.options.first_round:
            return [members]
        weights = shares(self.sites.samples[members])
        mean = float(np.sqrt((weights @ products @ weights).clip(min=0.0)))
        longest = float(np.sqrt(np.diagonal(products).max()))
        given = self.options.stationary
        noise = float(np.sqrt(weights**2 @ np.diagonal(products)))
        default = min(_STATIONARY_SHARE * longest, _NOISE_SHARE * noise)
        stationary = default if given is None else given
        if mean >= stationary or longest <= self.options.apart:
            return [members]
        cosine = cosines(products)
        part = bipartition(cosine)
        cross = float(cosine[np.ix_(part, ~part)].max())
        if np.sqrt((1.0 - cross) / 2) <= self.options.gamma_max:
            return [members]
        return [members[part], members[~part]]


def bipartition(cosine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the two parts with the least largest cosine across, bool (m,), the first's True.

    The most similar pairs are merged first, until two parts are left (Algorithm 1).
    """
    count = len(cosine)
    part = np.arange(count)
    first, second = np.triu_indices(count, 1)
    for k in np.argsort(-cosine[first, second], kind="stable"):
        if len(np.unique(part)) == 2:
            break
        part[part == part[second[k]]] = part[first[k]]
    first_part: NDArray[np.bool_] = part == part[0]
    return first_part
