"""What methods compute with m models of D parameters: block by block, never m × m × D numbers.

Products of a block are float32, sums over blocks float64. A block holds few enough columns that
its rounding stays below 1e-6 of the norms.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.methods.base import Matrix, Vector

# Columns of a block: 30 rows of it lie in the cache.
_COLUMNS = 2**12

# A weight below this part of the largest in its row isn't counted as an import: a solver's and a
# softmax's small remainders aren't purchases.
IMPORT_SHARE = 1e-3


class NonFiniteModelError(ValueError):
    """An institution sent a model that holds a NaN or an infinity."""


def check_finite(models: Matrix, number: int) -> None:
    """Refuse models that aren't numbers, before they spoil everybody's.

    Raises
    ------
    NonFiniteModelError
        It names institutions and round.
    """
    bad = [i for i, model in enumerate(models) if not np.isfinite(model).all()]
    if bad:
        raise NonFiniteModelError(
            f"round {number}: the models of institutions {bad} hold NaN or infinity: their training"
            " diverged; give them a smaller learning rate"
        )


def gram(
    models: Matrix, reference: Vector | None = None, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return V Vᵀ of v_i = θ_i − reference, for all models or those in `rows`; float64.

    Parameters
    ----------
    models
        (m, D).
    reference
        (D,); None: zero.
    rows
        Which models, in that order, (k,); None: all.

    Returns
    -------
    float64 (k, k)
    """
    chosen = np.arange(len(models)) if rows is None else rows
    total = np.zeros((len(chosen), len(chosen)))
    for span in _spans(models.shape[1]):
        block = models[chosen, span]
        if reference is not None:
            block -= reference[span]
        total += block @ block.T
    return total


def cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cos_ij from a Gram matrix; 0 where a vector is zero, exactly 1 on the diagonal."""
    norms = np.sqrt(np.diagonal(products).clip(min=0.0))
    scale = np.outer(norms, norms)
    cosine = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(cosine, 1.0)
    return cosine.clip(-1.0, 1.0)


def squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ‖v_i − v_j‖² ≥ 0 from a Gram matrix."""
    squares = np.diagonal(products)
    distances: NDArray[np.float64] = (squares[:, None] + squares - 2 * products).clip(min=0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def distance(a: Vector, b: Vector) -> float:
    """Return ‖a − b‖, without the cancellation that a Gram matrix has for near models."""
    total = 0.0
    for span in _spans(len(a)):
        difference = (a[span] - b[span]).astype(np.float64)
        total += float(difference @ difference)
    return float(np.sqrt(total))


def mix(
    weights: NDArray[np.float64], models: Matrix, rows: NDArray[np.int64] | None = None
) -> Matrix:
    """Return Σ_j w_ij θ_j of each row of weights that sum to 1; equal models stay as they are.

    Parameters
    ----------
    weights
        (r, k), rows sum to 1.
    models
        (m, D).
    rows
        Which k models; None: all.

    Returns
    -------
    float32 (r, D)
    """
    if not np.allclose(weights.sum(axis=1), 1.0):
        raise ValueError(f"weights must sum to 1 in each row, are {weights.sum(axis=1)}")
    chosen = np.arange(len(models)) if rows is None else rows
    mixed = np.empty((len(weights), models.shape[1]), np.float32)
    factors = weights.astype(np.float32)
    for span in _spans(models.shape[1]):
        block = models[chosen, span]
        # Of differences, so that what models have in common isn't rounded.
        origin = block[0].copy()
        mixed[:, span] = origin + factors @ (block - origin)
    return mixed


def shares(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return N_i / Σ N."""
    return samples.astype(np.float64) / float(samples.sum())


def average(models: Matrix, samples: NDArray[np.int64]) -> Vector:
    """Return Σ_i N_i θ_i / Σ N, (D,)."""
    mean: Vector = mix(shares(samples)[None, :], models)[0]
    return mean


def spread(model: Vector, count: int) -> Matrix:
    """Return `model` as that of all `count` institutions: a read-only view, no copies."""
    return np.broadcast_to(model, (count, len(model)))


def everybody(count: int) -> NDArray[np.bool_]:
    """Return the graph in which each imports all others' models, bool (m, m)."""
    return ~np.eye(count, dtype=bool)


def imports_of(weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whose models count as imported: weights above IMPORT_SHARE of the row's largest."""
    largest = weights.max(axis=1, keepdims=True)
    imports: NDArray[np.bool_] = weights > IMPORT_SHARE * largest
    np.fill_diagonal(imports, False)
    return imports


def _spans(size: int) -> Iterator[slice]:
    for first in range(0, size, _COLUMNS):
        yield slice(first, min(first + _COLUMNS, size))
