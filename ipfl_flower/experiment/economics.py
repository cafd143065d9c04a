"""What a graph of imports is worth, of any method: the market's formulas (mechanism.md §2, §4).

A method without a market pays nothing: its utility is what its graph would bring and cost by the
same formulas. Payments cancel in the mean over all institutions, and in no other: the honest may
have paid the dishonest. G counts the volume of data behind a model, not how accurate it makes one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market import Rules, Terms, distances
from ipfl_flower.market.clearing import set_gains, utilities
from ipfl_flower.market.gain import Bools, Floats
from ipfl_flower.market.mixing import Base, Kind
from ipfl_flower.market.offers import make_offers
from ipfl_flower.models import ModelBank, Reference


@dataclass(frozen=True, eq=False)
class Books:
    """What one round's imports came to, credits.

    Attributes
    ----------
    gains, utilities : float64 (m,)
        G_i and U_i, by the true terms.
    costs : float64 (m,)
        c_i · (number of i's buyers).
    volumes : float64 (m, m)
        a_ij N_ij, samples: what i bought of j.
    welfare : float
        Σ_i W_i = Σ_i (G_i − Σ_j a_ij (c_j + δ_ij)).
    """

    gains: Floats
    utilities: Floats
    costs: Floats
    volumes: Floats
    welfare: float


def books(
    terms: Sequence[Terms],
    apart: Floats,
    imports: Bools,
    rules: Rules,
    net: NDArray[np.int64] | None = None,
) -> Books:
    """Do one round's books.

    Parameters
    ----------
    terms : sequence of m Terms
        The true ones.
    apart : float64 (m, m)
        d_ij; NaN: at least one of the two can't be compared, and distance costs nothing.
    imports : bool (m, m)
        a_ij.
    rules : Rules
        λ and the cap on volumes.
    net : int64 (m,), optional
        p_i, micro-credits; by default nobody pays.
    """
    offers = make_offers(terms, apart, rules, None)
    gains = set_gains(offers, imports)
    paid = np.zeros(len(terms), np.int64) if net is None else net
    sales = imports.sum(axis=0)
    prices = offers.cost + offers.distance_prices
    return Books(
        gains=gains,
        utilities=utilities(offers, imports, gains, paid),
        costs=np.where(sales > 0, offers.cost, 0.0) * sales,
        volumes=np.where(imports, offers.volumes, 0.0),
        welfare=float((gains - np.where(imports, prices, 0.0).sum(axis=1)).sum()),
    )


def distances_of(
    models: NDArray[np.float32], initial: Reference, folder: Path, kind: Kind, reference: Base
) -> Floats:
    """Return d_ij of the models that a round trained, as the market would (mechanism.md §2).

    Parameters
    ----------
    models : float32 (m, D)
    initial : Reference
        θ⁰.
    folder : Path
        Where a bank may lie for the moment.
    kind : {"cosine", "l2"}
    reference : {"initial", "mean"}
        What updates are measured from.
    """
    bank = ModelBank(folder / "economics.bank", initial.layout, len(models), initial, threads=1)
    try:
        for i, model in enumerate(models):
            bank.put(i, initial.layout.restore(model.view(np.uint8)))
        return distances(bank.gram(), kind, reference)
    finally:
        bank.delete()
