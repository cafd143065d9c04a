"""From the Gram matrix of the updates to distances, and to the mixtures that make the prox-centres.

mechanism.md §2 and §6. Both ways the m × m Gram matrix V Vᵀ is all that is needed of the models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipfl_flower.market.gain import Bools, Floats
from ipfl_flower.market.offers import clamped_volumes
from ipfl_flower.market.terms import Terms

Kind: TypeAlias = Literal["cosine", "l2"]
Base: TypeAlias = Literal["initial", "mean"]

_ZERO: Final = 1e-30
_ZERO_RELATIVE: Final = 1e-12
# Of two updates the cosine is always −1 once their mean is subtracted: it says nothing.
_REBASED_LEAST: Final = 3
# ‖v'‖² at most so much is the mean itself: float32 models give cosines to some 5e-8, which is then
# no longer small beside it.
_REBASED_ZERO: Final = 1e-5


class MixingError(ValueError):
    """Distances or mixtures can't be made from these inputs; the message says why."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """The mixtures that make the prox-centres: Θ̄ = Θ + M V.

    Attributes
    ----------
    weights : float64 (m, m)
        M; a row of zeros where nothing is imported.
    eta : float64 (m,)
        η_i, the prox step; 0 where nothing is imported.
    """

    weights: Floats
    eta: Floats


def distances(
    gram: ArrayLike, kind: Kind, reference: Base = "initial", active: ArrayLike | None = None
) -> Floats:
    """Return d_ij from the Gram matrix of the updates (mechanism.md §2).

    Parameters
    ----------
    gram : float64 (m, m)
        v_i · v_j.
    kind : {"cosine", "l2"}
        1 − cos(v_i, v_j), or ‖v_i − v_j‖².
    reference : {"initial", "mean"}
        What updates are measured from: θ⁰, or with "cosine" also the mean of n updates (`rebased`):
        then distances are (n − 1)/n of that, so that 1 is what those with nothing but the mean in
        common have, as those with nothing in common have from θ⁰.
    active : bool (m,), optional
        Whose updates make the mean; by default everybody's.

    Returns
    -------
    float64 (m, m)
        Symmetric, 0 on the diagonal, ≥ 0; cosine distances ≤ 2. The row and the column of an update
        that can't be traded are NaN: one whose ‖v‖² is not finite, or is zero as far as float32
        models can tell, at most 10⁻¹² times the median of the round's positive ones (a millionth of
        the usual length is rounding) or 10⁻³⁰. With "mean" also one that is the mean (`rebased`).

    Raises
    ------
    MixingError
        If a shape is wrong, `kind` or `reference` unknown, or l2 is measured from the mean.
    """
    products = _square(gram)
    _check_kind(kind)
    scale = 1.0
    if reference == "mean" and kind == "cosine":
        n = len(_members(products, active))
        scale = (n - 1) / n if n >= _REBASED_LEAST else 1.0
        products = rebased(products, active)
    elif reference != "initial":
        raise MixingError(f"reference is {reference!r}: choose initial, or with cosine mean")
    squares = np.diagonal(products)
    usable = _usable(squares)
    with np.errstate(over="ignore", invalid="ignore"):
        products = products / 2.0 + products.T / 2.0
        if kind == "cosine":
            result = scale * np.clip(1.0 - _cosines(products, usable), 0.0, 2.0)
        else:
            result = np.maximum(squares[:, None] + squares - 2.0 * products, 0.0)
    result = np.where(np.isfinite(result), result, np.nan)
    result[~usable, :] = result[:, ~usable] = np.nan
    own = np.flatnonzero(usable)
    result[own, own] = 0.0
    return result


def rebased(gram: ArrayLike, active: ArrayLike | None = None) -> Floats:
    """Return the Gram matrix of the unit updates less their mean (mechanism.md §2).

    u_i = v_i / ‖v_i‖ and v'_i = u_i − (1/n) Σ_k u_k over the n active institutions whose updates
    are usable, so C' = H C H with the cosines C and the centring matrix H. Of unit updates each has
    a share of 1/n in the mean, however large its model is; whoever plays k institutions has k/n.

    This is for models whose updates share a large part that says nothing, as those of adapters and
    of fine-tuning do: it hides who is alike, and goes with the mean. It has a price. Where all are
    alike (IID), the common part is what shows it: without it all cosines are about −1/(n − 1), all
    distances about 1, and with λ ≥ V/2 nobody buys at d ≥ 1. Hence it is not the default.

    Parameters
    ----------
    gram : float64 (m, m)
        v_i · v_j.
    active : bool (m,), optional
        Whose updates make the mean; by default everybody's.

    Returns
    -------
    float64 (m, m)
        v'_i · v'_j, symmetric, of length² ≤ 4; the same bits in any order of the institutions. Rows
        and columns of zeros: an update that is not usable (`distances`), or is the mean:
        ‖v'_i‖² ≤ 10⁻⁵, a length of 0.3 %, of which float32 models leave too few digits to tell a
        direction. So nobody trades where all updates are the same. With n < 3, `gram` itself: of
        two updates the cosine would always be −1.

    Raises
    ------
    MixingError
        If `gram` is not square or `active` of another size.
    """
    products = _square(gram)
    usable = _usable(np.diagonal(products))
    members = _members(products, active)
    n = len(members)
    if n < _REBASED_LEAST:
        return products
    with np.errstate(over="ignore", invalid="ignore"):
        products = products / 2.0 + products.T / 2.0
        cosines = np.clip(_cosines(products, usable), -1.0, 1.0)
        np.fill_diagonal(cosines, 1.0)
        # fsum is exact before it rounds: sums don't depend on the order.
        along = np.array([fsum(row) / n for row in cosines[:, members]])  # u_i · mean
        result = cosines - (along[:, None] + along) + fsum(along[members]) / n
    usable &= np.diagonal(result) > _REBASED_ZERO
    return np.where(usable[:, None] & usable, result, 0.0)


def _members(products: Floats, active: ArrayLike | None) -> NDArray[np.intp]:
    """Return whose updates make the mean: those that are usable, of who is active."""
    m = len(products)
    present = np.ones(m, dtype=bool) if active is None else np.asarray(active)
    if present.shape != (m,) or present.dtype != np.bool_:
        raise MixingError(f"active is {present.dtype} {present.shape}: it must be bool ({m},)")
    return np.flatnonzero(_usable(np.diagonal(products)) & present)


def mixing_matrix(
    gram: ArrayLike,
    terms: Sequence[Terms],
    imports: Bools,
    *,
    kind: Kind,
    eta: float | Literal["auto"],
    max_volume_ratio: float = 10.0,
) -> Mixing:
    """Return the mixtures that make the prox-centres (mechanism.md §6).

    θ̄_i = θ_i − η_i Σ_j w_ij ∇_{θ_i} d_ij with w_ij = a_ij N_ij / N_i. Updates are those from θ⁰,
    whatever the market's distances are measured from: the gradient of l2 doesn't depend on it, and
    that of cosine is the paper's.

    Parameters
    ----------
    gram : float64 (m, m)
        v_i · v_j.
    terms : sequence of m Terms
    imports : bool (m, m)
        a_ij.
    kind : {"cosine", "l2"}
        The distance whose gradient makes the centre.
    eta : float or "auto"
        η_rel for cosine: η_i = min(η_rel ‖v_i‖², ‖v_i‖ / ‖Σ_j w_ij ∇‖). For l2: η_i = min(η,
        1 / (2 Σ_j w_ij)), or "auto": 1 / (2 (1 + Σ_j w_ij)), the weighted mean.
    max_volume_ratio : float
        The cap in N_ij (§8).

    Returns
    -------
    Mixing

    Raises
    ------
    MixingError
        If a shape, `kind` or `eta` is wrong, or an institution that trades has no usable update.
    """
    products = _square(gram)
    _check_kind(kind)
    if eta == "auto":
        if kind == "cosine":
            raise MixingError('eta is "auto": that is defined for l2 alone, give cosine a number')
    elif not 0 < eta < inf:
        raise MixingError(f"eta is {eta!r}: give a finite number above 0")
    m = len(terms)
    if products.shape != (m, m) or imports.shape != (m, m):
        raise MixingError(f"gram is {products.shape}, imports {imports.shape}: both are ({m}, {m})")
    squares = np.diagonal(products)
    usable = _usable(squares)
    lost = np.flatnonzero((imports.any(axis=0) | imports.any(axis=1)) & ~usable)
    if lost.size:
        raise MixingError(f"institution {lost[0]} trades, but its update is zero or not finite")
    samples = np.array([t.samples for t in terms], dtype=np.float64)
    own = np.where(samples > 0, samples, 1.0)[:, None]
    weights = np.where(imports, clamped_volumes(samples, max_volume_ratio) / own, 0.0)
    if kind == "l2":
        return _l2(weights, eta)
    assert eta != "auto"  # noqa: S101 - refused above
    traded = usable[:, None] & usable
    return _cosine(weights, np.where(traded, products, 0.0), np.where(usable, squares, 1.0), eta)


def _l2(weights: Floats, eta: float | Literal["auto"]) -> Mixing:
    total = weights.sum(axis=1)
    buys = total > 0
    safe = np.where(buys, total, 1.0)
    step = 1.0 / (2.0 * (1.0 + safe)) if eta == "auto" else np.minimum(eta, 1.0 / (2.0 * safe))
    step = np.where(buys, step, 0.0)
    mixture = 2.0 * step[:, None] * weights
    np.fill_diagonal(mixture, -2.0 * step * total)
    return Mixing(mixture, step)


def _cosine(weights: Floats, products: Floats, squares: Floats, eta: float) -> Mixing:
    lengths = np.sqrt(squares)
    cosines = products / (lengths[:, None] * lengths)
    along = (weights * cosines).sum(axis=1)
    # ‖v_i‖ · ‖Σ w ∇‖: the length of Σ w_ij u_j across u_i; rounding may push a square below 0.
    across = np.sqrt(np.maximum(((weights @ cosines) * weights).sum(axis=1) - along**2, 0.0))
    limit = np.where(across > 0, 1.0 / np.where(across > 0, across, 1.0), inf)
    relative = np.where(weights.any(axis=1), np.minimum(eta, limit), 0.0)  # η_i / ‖v_i‖²
    mixture = relative[:, None] * weights * (lengths[:, None] / lengths)
    np.fill_diagonal(mixture, -relative * along)
    return Mixing(mixture, relative * squares)


def _cosines(products: Floats, usable: Bools) -> Floats:
    """Divide by the lengths, where they are usable."""
    lengths = np.sqrt(np.where(usable, np.diagonal(products), 1.0))
    cosines: Floats = products / (lengths[:, None] * lengths)
    return cosines


def _usable(squares: Floats) -> Bools:
    finite = np.isfinite(squares)
    positive = np.sort(squares[finite & (squares > 0)])
    usual = float(positive[(len(positive) - 1) // 2]) if positive.size else 0.0
    return finite & (np.where(finite, squares, 0.0) > max(_ZERO, _ZERO_RELATIVE * usual))


def _square(gram: ArrayLike) -> Floats:
    products = np.asarray(gram, dtype=np.float64)
    if products.ndim != 2 or products.shape[0] != products.shape[1]:
        raise MixingError(f"gram is {products.shape}: it must be square")
    return products


def _check_kind(kind: str) -> None:
    if kind not in ("cosine", "l2"):
        raise MixingError(f"kind is {kind!r}: choose one of cosine, l2")
