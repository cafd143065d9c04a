"""Why a purchase was made, or was not: recomputed from what the settlement was given."""

from dataclasses import replace
from math import fsum, inf, isnan
from typing import Any

import numpy as np

from ipfl_flower.console.access import Viewer
from ipfl_flower.console.book import known
from ipfl_flower.console.shapes import Why
from ipfl_flower.ledger import Settlement
from ipfl_flower.market import Clearing, clear, threshold
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
        self._wanted: dict[int, Clearing] = {}
        self._offers: Offers = make_offers(
            settlement.terms, settlement.distances, settlement.rules, settlement.active
        )

    def explain(self, buyer: int, seller: int, viewer: Viewer) -> Why | None:
        """Explain why `buyer` imports `seller`'s model, or why it does not.

        Parameters
        ----------
        buyer, seller : int
            Ids of two institutions.
        viewer : Viewer
            An institution sees of its purchases what its receipt says, and of its sales what it
            was paid: the rest follows from others' terms.

        Returns
        -------
        Why or None
            None: `viewer` may not see it.
        """
        names = self._names[buyer], self._names[seller]
        ids, cleared = self._settlement.participants, self._settlement.clearing
        absent = [role for role, who in (("buyer", buyer), ("seller", seller)) if who not in ids]
        if absent:
            return self._why(names, f"{absent[0]}_absent") if viewer.is_operator else None
        i, j = ids.index(buyer), ids.index(seller)
        bought = bool(cleared.imports[i, j])
        paid = int(cleared.transfers[i, j]) if bought else None
        if viewer.is_operator or (bought and viewer.sees(names[0])):
            reason, more = self._reason(i, j)
            return self._why(names, reason, bought=bought, paid=paid, **self._numbers(i, j), **more)
        if bought and viewer.sees(names[1]):
            return self._why(names, "sold", bought=True, paid=paid)
        return None

    def _why(self, names: tuple[str, str], reason: str, **more: Any) -> Why:
        buyer, seller = names
        text = _TEXTS[reason].format(buyer=buyer, seller=seller)
        return Why(
            round=self._settlement.round,
            buyer=buyer,
            seller=seller,
            reason=reason,
            text=text,
            **{"bought": False, **more},
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
        wanted = self._cleared(i)
        reason = "declined" if wanted.imports[i, j] else "declined_unwanted"
        return reason, {"bill": sum(wanted.transfers[i].tolist())}

    def _cleared(self, i: int) -> Clearing:
        """Return the clearing, for a buyer over its budget the one as if it had none."""
        settlement = self._settlement
        if not settlement.clearing.declined[i]:
            return settlement.clearing
        if i not in self._wanted:
            terms = list(settlement.terms)
            terms[i] = replace(terms[i], budget=inf)
            self._wanted[i] = clear(
                terms, settlement.distances, settlement.rules, settlement.active
            )
        return self._wanted[i]

    def _others(self, i: int, j: int) -> list[float]:
        """Return N_ik of all others that the buyer bought, or would have if it could pay."""
        bought = self._cleared(i).imports[i].copy()
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
