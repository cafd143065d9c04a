"""FedFomo.

Zhang, Sapra, Fidler, Yeung, Alvarez: Personalized federated learning with first order model
optimization, ICLR 2021, and the authors' code (NVlabs/FedFomo).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.methods.arithmetic import check_finite, distance, imports_of, mix
from ipfl_flower.experiment.methods.base import Judgement, Matrix, Method, Order, Played, Sites


@dataclass(frozen=True)
class FedFomoOptions:
    """Whose models are tried; defaults as in the authors' commands.

    Attributes
    ----------
    downloads
        M, others' models that an institution is sent in a round.
    epsilon
        Probability that each of them is drawn at random instead of by affinity, in round 0.
    epsilon_decay
        What it loses a round, down to 0.
    seed
        Of these draws and of ties.
    """

    downloads: int = 4
    epsilon: float = 0.3
    epsilon_decay: float = 0.05
    seed: int = 0


class FedFomo(Method):
    """Each institution mixes the models that do better on its own validation data.

    It starts the round at s_i, trains θ_i, and is sent M of the others' θ_n. By first-order
    optimisation (the paper's section 3.2)

        w_n = (L_i(s_i) − L_i(θ_n)) / ‖θ_n − s_i‖,   L_i its validation loss, θ_i among the θ_n,
        s_i ← s_i + Σ_n w*_n (θ_n − s_i),            w*_n = max(w_n, 0) / Σ max(w, 0),

    and s_i stays where none is better. It uses the new s_i and trains from there. The server sends
    the M models with the largest affinity P_in, 0 at first, to which w_n is added whenever i tried
    θ_n; with probability ε each of them is drawn at random instead.

    Deviations from the authors' code: the norm is Euclidean (theirs defaults to ℓ1), affinity gets
    the w_n as they are (theirs are divided by their sum), and averages of all models are not among
    the candidates. A θ_n whose loss isn't finite counts as neither good nor bad: w_n = 0.

    Imports are the w*_n, n ≠ i, above IMPORT_SHARE of the row's largest.
    """

    name = "fedfomo"
    source = "Zhang et al., ICLR 2021"
    options_type = FedFomoOptions
    options: FedFomoOptions

    def __init__(self, sites: Sites, options: FedFomoOptions | None = None) -> None:
        super().__init__(sites, options)
        count = len(sites.samples)
        self._affinity = np.zeros((count, count))
        self._models: Matrix | None = None

    def play(self, number: int) -> Played:
        """Train, try own and others' models, mix those that are better."""
        count = len(self.sites.samples)
        starts = [self.sites.initial] * count if self._models is None else list(self._models)
        trained = self.sites.train(number, [Order(start) for start in starts])
        check_finite(trained, number)
        tried = [[i, *self._chosen(number, i)] for i in range(count)]
        judged = self.sites.judge(
            [
                # Row by row: a list of rows is indexed without a copy of them.
                [start, *(trained[n] for n in others)]
                for start, others in zip(starts, tried, strict=True)
            ]
        )
        weights = np.zeros((count, count))
        for i, (start, others, judgements) in enumerate(zip(starts, tried, judged, strict=True)):
            weights[i, others] = first_order(
                judgements, [distance(trained[n], start) for n in others]
            )
        self._affinity += weights
        mixing = normalised(weights)
        better: NDArray[np.bool_] = mixing.sum(axis=1) > 0
        # Where none is better any row will do: it isn't used.
        models = mix(np.where(better[:, None], mixing, np.eye(count)), trained)
        for i, start in enumerate(starts):
            if not better[i]:
                models[i] = start
        self._models = models
        return Played(models, trained, imports_of(mixing))

    def _chosen(self, number: int, i: int) -> list[int]:
        """Return whose models i is sent, ε-greedily by affinity."""
        draw = np.random.default_rng([self.options.seed, number, i])
        count = len(self._affinity)
        ranked = np.lexsort((draw.random(count), -self._affinity[i]))
        left = [int(n) for n in ranked if n != i]
        if len(left) <= self.options.downloads:
            return sorted(left)
        epsilon = self.options.epsilon - number * self.options.epsilon_decay
        return [
            left.pop(int(draw.integers(len(left))) if draw.random() < epsilon else 0)
            for _ in range(self.options.downloads)
        ]


def first_order(judgements: list[Judgement], distances: list[float]) -> NDArray[np.float64]:
    """Return w of the models after the first, which is the baseline, at `distances` from it."""
    losses = np.array([judgement.validation_loss for judgement in judgements])
    gains = losses[0] - losses[1:]
    lengths = np.array(distances)
    usable = np.isfinite(gains) & (lengths > 0)
    weights: NDArray[np.float64] = np.zeros_like(lengths)
    np.divide(gains, lengths, out=weights, where=usable)
    return weights


def normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the positive weights divided by their sum, row by row; a row without stays zero."""
    positive = weights.clip(min=0.0)
    sums = positive.sum(axis=1, keepdims=True)
    np.divide(positive, sums, out=positive, where=sums > 0)
    return positive
