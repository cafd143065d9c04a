"""Why a purchase was made, or was not: recomputed from what the settlement was given."""

from dataclasses import replace
from math import fsum, inf, isnan
from typing import Any

import numpy as np

from ipfl_flower.console.access import Viewer
from ipfl_flower.console.book import known
from ipfl_flower.console.shapes import Why
from ipfl_flower.ledger import Settlement
from ipfl_flower.market import clear, threshold
from ipfl_flower.market.gain import gain
from ipfl_flower.market.offers import Offers, make_offers

_TEXTS = {
    "bought": "{seller}'s model added more to what {buyer} bought than its full price.",
    "buyer_absent": "{buyer} did not report in this round.",
    "seller_absent": "{seller} did not report in this round.",
    "buyer_inactive": "{buyer} does not trade: it is leaving.",
    "seller_inactive": "{seller} does not trade: it is leaving.",
    "buyer_no_samples": "{buyer} reported no samples, and who has none does not trade.",
    "seller_no_samples": "{seller} reported no samples, and who has none does not trade.",
    "buyer_not_eager": "{buyer} does not buy: its eagerness is 0.",
    "seller_not_selling": "{seller} does not sell: its cost is endless.",
    "untradable": "One of their models can't be traded: it did not change, or is not a number.",
    "too_dear": "The full price is beyond any gain.",
    "declined": "{buyer} wanted it, but all that it wanted cost more than its budget.",
    "declined_unwanted": "{buyer} was over its budget and bought nothing; it did not want this.",
    "not_worth_alone": "Even alone, the model would gain {buyer} less than its full price.",
    "not_worth": "Beside what {buyer} bought, the model would add less than its full price.",
    "stopped": "The greedy selection stopped at a model before this one (mechanism.md §3).",
    "not_chosen": "It is worth its price by a hair, within the selection's tolerance.",
    "not_shown": "You did not buy it. Another's terms are not shown.",
    "sold": "{buyer} bought your model.",
}


class Explainer:
    """Explains a round's purchases, one at a time.

    Parameters
    ----------
    settlement : Settlement
    names : sequence of str
        Of all institutions, by id.
    """

    def __init__(self, settlement: Settlement, names: list[str]) -> None:
        self._settlement, self._names = settlement, names
        self._offers: Offers = make_offers(
            settlement.terms, settlement.distances, settlement.rules, settlement.active
        )

    def explain(self, buyer: int, seller: int, viewer: Viewer) -> Why:
        """Explain why `buyer` imports `seller`'s model, or why it does not.

        Parameters
        ----------
        buyer, seller : int
            Ids of two institutions.
        viewer : Viewer
            The operator, or one of the two: a buyer sees of a purchase what its receipt says,
            a seller what it was paid.

        Returns
        -------
        Why
        """
        ids = self._settlement.participants
        for role, who in (("buyer", buyer), ("seller", seller)):
            if who not in ids:
                return self._why(buyer, seller, f"{role}_absent")
        i, j = ids.index(buyer), ids.index(seller)
        cleared = self._settlement.clearing
        bought = bool(cleared.imports[i, j])
        paid = int(cleared.transfers[i, j]) if bought else None
        if not viewer.sees(self._names[buyer]):
            code = "sold" if bought else "not_shown"
            return self._why(buyer, seller, code, bought=bought, paid=paid)
        if not viewer.is_operator and not bought:
            return self._why(buyer, seller, "not_shown")
        reason, more = self._reason(i, j)
        return self._why(
            buyer, seller, reason, bought=bought, paid=paid, **self._numbers(i, j), **more
        )

    def _why(
        self, buyer: int, seller: int, reason: str, *, bought: bool = False, **more: Any
    ) -> Why:
        names = {"buyer": self._names[buyer], "seller": self._names[seller]}
        text = _TEXTS[reason].format(**names)
        return Why(
            round=self._settlement.round, **names, bought=bought, reason=reason, text=text, **more
        )

    def _reason(self, i: int, j: int) -> tuple[str, dict[str, Any]]:
        settlement = self._settlement
        if settlement.clearing.imports[i, j]:
            return "bought", {}
        obstacle = self._obstacle(i, j)
        if obstacle is not None:
            return obstacle, {}
        if settlement.clearing.declined[i]:
            return self._declined(i, j)
        price = float(self._offers.prices[i, j])
        if self._gain(i, j, []) <= price:
            return "not_worth_alone", {}
        if self._gain(i, j, self._others(i, j)) <= price:
            return "not_worth", {}
        return "stopped" if settlement.rules.selection == "greedy" else "not_chosen", {}

    def _obstacle(self, i: int, j: int) -> str | None:
        """Find what keeps two from trading at all."""
        settlement, terms = self._settlement, self._settlement.terms
        found = {
            "buyer_inactive": not settlement.active[i],
            "seller_inactive": not settlement.active[j],
            "buyer_no_samples": terms[i].samples == 0,
            "seller_no_samples": terms[j].samples == 0,
            "buyer_not_eager": terms[i].eagerness == 0,
            "seller_not_selling": terms[j].cost == inf,
            "untradable": isnan(settlement.distances[i, j]),
            "too_dear": not self._offers.prices[i, j] < inf,
        }
        return next((reason for reason, holds in found.items() if holds), None)

    def _declined(self, i: int, j: int) -> tuple[str, dict[str, Any]]:
        """Clear the round once more as if the buyer had no budget."""
        settlement = self._settlement
        terms = list(settlement.terms)
        terms[i] = replace(terms[i], budget=inf)
        wanted = clear(terms, settlement.distances, settlement.rules, settlement.active)
        reason = "declined" if wanted.imports[i, j] else "declined_unwanted"
        return reason, {"bill": sum(wanted.transfers[i].tolist())}

    def _others(self, i: int, j: int) -> list[float]:
        """Return N_ik of all others that the buyer bought."""
        bought = self._settlement.clearing.imports[i].copy()
        bought[j] = False
        volumes: list[float] = self._offers.volumes[i, bought].tolist()
        return volumes

    def _gain(self, i: int, j: int, beside: list[float]) -> float:
        """Return what the model adds to the buyer's own data and `beside`, credits."""
        volume = np.array(fsum((float(self._offers.own[i]), *beside)))
        return float(gain(self._offers.root[i], volume, self._offers.volumes[i, j]))

    def _numbers(self, i: int, j: int) -> dict[str, Any]:
        settlement, offers = self._settlement, self._offers
        buyer, seller = settlement.terms[i], settlement.terms[j]
        volume, price = float(offers.volumes[i, j]), float(offers.prices[i, j])
        numbers: dict[str, Any] = {
            "cost": known(seller.cost),
            "distance": known(settlement.distances[i, j]),
            "samples": seller.samples,
            "samples_counted": volume,
            "budget": known(buyer.budget),
        }
        if price < inf:
            others = self._others(i, j)
            numbers |= {
                "distance_price": float(offers.distance_prices[i, j]),
                "full_price": price,
                "gain_alone": self._gain(i, j, []),
                "marginal_gain": self._gain(i, j, others),
                "volume": fsum((float(offers.own[i]), *others)),
                "threshold": known(float(threshold(volume, price, buyer.eagerness))),
            }
        return numbers
