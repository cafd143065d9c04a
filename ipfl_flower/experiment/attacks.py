"""What dishonest institutions send in place of their models (mechanism.md §9, Figure 4)."""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from ipfl_flower.experiment.methods.base import Vector

Attack: TypeAlias = Callable[[Vector, np.random.Generator], Vector]


def shuffle(model: Vector, rng: np.random.Generator) -> Vector:
    """Return the parameters in a random order."""
    return rng.permutation(model)


def sign_flip(model: Vector, rng: np.random.Generator) -> Vector:
    """Return −θ."""
    del rng
    return -model


def ones(model: Vector, rng: np.random.Generator) -> Vector:
    """Return a model of ones."""
    del rng
    return np.ones_like(model)


def gaussian(model: Vector, rng: np.random.Generator) -> Vector:
    """Return Gaussian noise with the spread of the model's own parameters."""
    return rng.normal(0.0, float(model.std()), model.shape).astype(np.float32)


ATTACKS: Final[dict[str, Attack]] = {
    attack.__name__: attack for attack in (shuffle, sign_flip, ones, gaussian)
}
