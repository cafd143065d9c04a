"""From a round's reports and Gram matrix to what is paid, and to what each buyer is sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipfl_flower import market
from ipfl_flower.ledger import Report, Settlement
from ipfl_flower.models import ModelBank
from ipfl_flower.notary import Minutes, Notary
from ipfl_flower.settings import Settings

INVARIANT = "invariant violated"
"""How the reason begins with which a round is abandoned for an :class:`InvariantError`."""


class InvariantError(RuntimeError):
    """A clearing breaks an invariant of mechanism.md §8: the round must not be settled."""


def settle(
    number: int, reports: Mapping[int, Report], gram: NDArray[np.float64], settings: Settings
) -> Settlement:
    """Clear one round's market.

    Parameters
    ----------
    number : int
        The round.
    reports : mapping of int to Report
        By institution id. Who leaves, or sent no model, does not trade.
    gram : float64 (rows, rows)
        Gram matrix of the updates; row i is institution i.
    settings : Settings

    Returns
    -------
    Settlement
        Participants are all that reported, ascending.

    Raises
    ------
    InvariantError
        If the clearing violates mechanism.md §8; names what.
    """
    participants = tuple(sorted(reports))
    index = np.ix_(participants, participants)
    terms = tuple(reports[i].terms for i in participants)
    active = np.array([not reports[i].leaving for i in participants], dtype=bool)
    rules = settings.rules()
    distances = market.distances(gram[index], settings.distance, settings.reference, active)
    clearing = market.clear(terms, distances, rules, active)
    violations = market.check(terms, distances, rules, clearing, active)
    if violations:
        raise InvariantError(
            f"{INVARIANT}, nothing is paid: " + "; ".join(str(item) for item in violations)
        )
    return Settlement(
        round=number,
        participants=participants,
        terms=terms,
        distances=distances,
        active=active,
        rules=rules,
        clearing=clearing,
        model_digests=tuple(reports[i].model_digest for i in participants),
        metrics=tuple(reports[i].metrics for i in participants),
    )


@dataclass(frozen=True)
class Delivery:
    """What a settled round brings to each institution: a buyer's prox-centre, everyone's lines.

    Attributes
    ----------
    settlement : Settlement
    bank : ModelBank or None
        Of that round; holds the centres. None: nobody is owed one any more.
    etas : mapping of int to float
        η_i of the institutions that bought, by id.
    minutes : Minutes
        What the round's receipts say.
    notary : Notary
        Signs them.
    """

    settlement: Settlement
    bank: ModelBank | None
    etas: Mapping[int, float]
    minutes: Minutes
    notary: Notary

    def statement(self, institution: int) -> dict[str, Any]:
        """Return the signed receipt of `institution`, as JSON; {} if it took no part."""
        if institution not in self.settlement.participants:
            return {}
        return self.notary.signed(self.minutes, institution).to_object()


def deliver(
    minutes: Minutes,
    gram: NDArray[np.float64],
    bank: ModelBank,
    settings: Settings,
    notary: Notary,
) -> Delivery:
    """Compute the prox-centres of a settled round in one pass over the bank (mechanism.md §6).

    Parameters
    ----------
    minutes : Minutes
        Of the round, once it is committed.
    gram : float64 (rows, rows)
        As in `settle`.
    bank : ModelBank
        Holds the models of that round; keeps the centres.
    settings : Settings
    notary : Notary

    Returns
    -------
    Delivery
    """
    settlement = minutes.settlement
    ids = settlement.participants
    index = np.ix_(ids, ids)
    mixing = market.mixing_matrix(
        gram[index],
        settlement.terms,
        settlement.clearing.imports,
        kind=settings.centre,
        eta=settings.eta,
        max_volume_ratio=settings.max_volume_ratio,
    )
    weights = np.zeros_like(gram)
    weights[index] = mixing.weights
    bank.write_centres(weights)
    bought = np.flatnonzero(settlement.clearing.imports.any(axis=1))
    etas = {ids[i]: float(mixing.eta[i]) for i in bought}
    return Delivery(settlement, bank, etas, minutes, notary)


class Owed:
    """What settled rounds have brought to institutions that have not taken it yet.

    Who paid is owed its centre, also when it is away for a while: a round's bank is deleted once
    nobody is owed a centre of it, and no earlier.
    """

    def __init__(self) -> None:
        self._owed: dict[int, Delivery] = {}

    def add(self, delivery: Delivery, institutions: Iterable[int] | None = None) -> None:
        """Owe what `delivery` brings, in place of anything older.

        Parameters
        ----------
        delivery : Delivery
        institutions : iterable of int, optional
            Whom: by default everyone who took part.
        """
        before = self._banks(self._owed)
        whom = delivery.settlement.participants if institutions is None else institutions
        self._owed |= dict.fromkeys(whom, delivery)
        self._drop(before | ({delivery.bank} if delivery.bank else set()))

    def get(self, institution: int) -> Delivery | None:
        """Return the round whose outcome `institution` has not taken yet."""
        return self._owed.get(institution)

    def taken(self, institution: int) -> None:
        """Note that `institution` has answered the message that brought it what it was owed."""
        before = self._banks(self._owed)
        self._owed.pop(institution, None)
        self._drop(before)

    def buyers(self) -> list[int]:
        """Return who has paid for a centre and not taken it, ascending."""
        return sorted(i for i, delivery in self._owed.items() if i in delivery.etas)

    def close(self) -> None:
        """Close the banks; they stay on disk."""
        for bank in self._banks(self._owed):
            bank.close()

    def _banks(self, institutions: Iterable[int]) -> set[ModelBank]:
        banks = (self._owed[i].bank for i in institutions)
        return {bank for bank in banks if bank is not None}

    def _drop(self, banks: set[ModelBank]) -> None:
        for bank in banks - self._banks(self.buyers()):
            bank.delete()
