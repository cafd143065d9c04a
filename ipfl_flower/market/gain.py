"""What more data is worth to a buyer: φ, G and V (mechanism.md §1, §2).

Everything that decides who trades or what is paid uses + − × ÷ √ alone, which IEEE 754 rounds in
one way only, and sums in an order that the numbers themselves give: any machine, and any order of
the institutions, yields the same bytes.
"""

from collections.abc import Sequence
from math import fsum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


def gain(root: Floats, volume: Floats, added: Floats) -> Floats:
    """Return φ(x + a) − φ(x) with φ(x) = −√(K/x), without cancellation.

    G_i(S) is the gain of adding Σ_{j∈S} N_ij to N_i.

    Parameters
    ----------
    root : float64 array
        √K, in credits · √samples.
    volume : float64 array, broadcast against `root`
        x > 0, samples; may be `inf`.
    added : float64 array, broadcast against `root`
        a ≥ 0, samples.

    Returns
    -------
    float64 array
        Credits.
    """
    before, after = np.sqrt(volume), np.sqrt(volume + added)
    # Divided one after another: the product of three roots could overflow, its parts can't.
    result: Floats = root / before * (added / after / (before + after))
    return result


def value_scale(root: Floats, own: Floats) -> Floats:
    """Return V_i = √(K_i/N_i), credits: the largest gain that i can ever have.

    Parameters
    ----------
    root : float64 array
        √K.
    own : float64 array
        N > 0, samples.
    """
    return root / np.sqrt(own)


def leave_one_out(own: float, volumes: Sequence[float]) -> tuple[float, list[float]]:
    """Sum a buyer's volumes: all, and all but each; correctly rounded, whatever their order.

    Parameters
    ----------
    own : float
        N_i, samples.
    volumes : sequence of float
        N_ij of its sellers, samples.

    Returns
    -------
    total : float
        N_i + Σ_j N_ij.
    without : list of float
        N_i + Σ_{k≠j} N_ik, by j.
    """
    total = fsum((own, *volumes))
    rest = fsum((own, *volumes, -total))
    return total, [fsum((total, rest, -volume)) for volume in volumes]


def cube_root(number: Floats) -> Floats:
    """Return ∛a for finite a ≥ 0, by Newton from above: only operations that round one way.

    Parameters
    ----------
    number : float64 array

    Returns
    -------
    float64 array
        Within a few units in the last place; the same on every machine, unlike `numpy.cbrt`.
    """
    _, exponent = np.frexp(number)
    root: Floats = np.ldexp(1.0, -(-exponent // 3))
    for _ in range(7):  # starts within a factor of 2, and squares its relative error
        root = (2.0 * root + number / root / root) / 3.0
    return np.where(number > 0, root, 0.0)
