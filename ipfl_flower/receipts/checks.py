"""What an institution finds out from its own row alone: a list of small checks (mechanism.md §8).

The market's arithmetic gives the same bits on every machine, so amounts are held to exact bounds:
R_ij is the floor of a payment that the clearing keeps from c_j to the marginal payment. Only sums
are allowed the rounding that the clearing's own invariants allow.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import floor, fsum, inf
from typing import Final, TypeAlias

import numpy as np

from ipfl_flower.market import MICRO, Terms
from ipfl_flower.market.clearing import set_gains
from ipfl_flower.market.gain import value_scale
from ipfl_flower.market.offers import make_offers
from ipfl_flower.market.payment import marginal_payments
from ipfl_flower.receipts.receipt import Receipt

_RELATIVE: Final = 1e-6
"""Of V_i and the sum of the payments: see `market.invariants`."""


@dataclass(frozen=True)
class _Case:
    receipt: Receipt
    own: Terms | None
    previous: Receipt | None


_Check: TypeAlias = Callable[[_Case], Iterator[str]]


def check(receipt: Receipt, own_terms: Terms | None, previous: Receipt | None = None) -> list[str]:
    """Check a receipt against what the institution knows.

    Parameters
    ----------
    receipt : Receipt
    own_terms : Terms or None
        What the institution reported in that round; None: it doesn't know any more.
    previous : Receipt, optional
        The last one before it that the institution accepted.

    Returns
    -------
    list of str
        What doesn't fit, a line each; empty if all is well. Amounts are in micro-credits. That the
        head is the ledger's, and what others paid, only an audit can tell.
    """
    case = _Case(receipt, own_terms, previous)
    findings: list[str] = []
    for find in _CHECKS:
        try:
            findings += find(case)
        except OverflowError:
            findings.append(
                f"numbers beyond any market: {find.__name__.strip('_')} can't be checked"
            )
    return findings


def _own_terms(case: _Case) -> Iterator[str]:
    """Terms are settled as they were reported."""
    if case.own is not None:
        for field in dataclasses.fields(Terms):
            settled, told = (getattr(t, field.name) for t in (case.receipt.terms, case.own))
            if settled != told:
                yield f"own {field.name} was settled as {settled}, reported was {told}"


def _trades_at_all(case: _Case) -> Iterator[str]:
    """Who has no samples doesn't trade; without eagerness nobody buys; at cost inf nobody sells."""
    receipt, terms = case.receipt, case.receipt.terms
    if receipt.bought and (terms.samples == 0 or terms.eagerness == 0):
        yield f"bought {len(receipt.bought)} models with N = {terms.samples}, K = {terms.eagerness}"
    if receipt.sold and (terms.samples == 0 or terms.cost == inf):
        yield f"sold to {len(receipt.sold)} with N = {terms.samples}, c = {terms.cost}"
    counterparties = {*(p.seller for p in receipt.bought), *(s.buyer for s in receipt.sold)}
    if receipt.institution in counterparties:
        yield "trades with itself"
    for line in receipt.bought:
        if line.samples == 0:
            yield f"bought from {line.seller}, which has no samples"


def _purchases(case: _Case) -> Iterator[str]:
    """Each price follows from N_ij, d_ij, c_j and the own K and N; together they are worth it."""
    receipt, terms = case.receipt, case.receipt.terms
    lines = receipt.bought
    if not lines or terms.samples == 0 or terms.eagerness == 0:
        return
    sellers = [Terms(line.samples, line.cost, 0.0) for line in lines]
    distances = np.zeros((len(lines) + 1,) * 2)
    distances[0, 1:] = [line.distance for line in lines]
    buyer = np.arange(len(lines) + 1) == 0
    offers = make_offers([terms, *sellers], distances, receipt.rules, None).rows(buyer)
    untradable = [
        line for line, price in zip(lines, offers.prices[0, 1:], strict=True) if not price < inf
    ]
    if untradable:
        yield from (f"bought from {line.seller}, whose price has no bound" for line in untradable)
        return
    imports = ~buyer[None, :]
    free = dataclasses.replace(offers, cost=np.zeros(len(buyer)))
    worths = marginal_payments(free, imports)[0, 1:].tolist()
    paid = fsum(line.amount for line in lines) / MICRO
    slack = _RELATIVE * (float(value_scale(offers.root, offers.own)[0]) + paid)
    for line, worth in zip(lines, worths, strict=True):
        highest = _units(max(worth, line.cost))
        lowest = highest if receipt.rules.payment == "marginal" else _units(line.cost)
        if not lowest <= line.amount <= highest:
            due = f"{highest}" if lowest == highest else f"from {lowest} to {highest}"
            yield f"pays {line.seller} {line.amount}, due is {due}"
        if line.cost > worth + slack:
            yield f"bought from {line.seller} at cost {line.cost:g} what adds {worth:g} credits"
    most = float(set_gains(offers, imports)[0]) - fsum(offers.distance_prices[0, 1:].tolist())
    if paid > most + slack + len(lines) / MICRO:
        yield f"pays {paid:.6f} credits in all for what is worth {most:.6f}"


def _sales(case: _Case) -> Iterator[str]:
    """No sale is paid less than it costs."""
    cost = case.receipt.terms.cost
    for line in case.receipt.sold:
        if cost < inf and line.amount < _units(cost):
            yield f"is paid {line.amount} by {line.buyer}, a sale costs it {_units(cost)}"


def _budget(case: _Case) -> Iterator[str]:
    """Bills are within the budget, and a declined row is empty."""
    bill, budget = _bill(case.receipt), case.receipt.terms.budget
    if bill / MICRO > budget:
        yield f"pays {bill} in all, its budget is {budget} credits"
    if case.receipt.declined and case.receipt.bought:
        yield "declined its row and bought all the same"


def _net(case: _Case) -> Iterator[str]:
    """Net payment = paid − earned."""
    receipt = case.receipt
    net = _bill(receipt) - sum(line.amount for line in receipt.sold)
    if receipt.net != net:
        yield f"net is {receipt.net}, its lines come to {net}"


def _balance(case: _Case) -> Iterator[str]:
    """Balances go on from the last receipt's, or from nothing in the first round."""
    receipt, previous = case.receipt, case.previous
    if receipt.round == 0:
        before = 0
    elif previous is not None and receipt.round == previous.round + 1:
        before = previous.balance
    else:
        return
    if receipt.balance != before - receipt.net:
        yield f"balance is {receipt.balance}, due is {before} − {receipt.net}"


def _chain(case: _Case) -> Iterator[str]:
    """Each round builds on the head of the one before it."""
    receipt, previous = case.receipt, case.previous
    if receipt.head == receipt.previous:
        yield "the round has not moved the chain's head"
    if (receipt.round == 0) != (receipt.previous == receipt.market):
        yield f"round {receipt.round} builds on head {receipt.previous[:12]}, not on its own place"
    if previous is None:
        return
    if receipt.round <= previous.round:
        yield f"round {receipt.round} comes after the receipt of round {previous.round}"
    elif receipt.round == previous.round + 1 and receipt.previous != previous.head:
        yield (
            f"builds on head {receipt.previous[:12]}, the receipt of round {previous.round} "
            f"ended at {previous.head[:12]}"
        )


def _same_market(case: _Case) -> Iterator[str]:
    """Market, rules and one's own identity don't change from receipt to receipt."""
    if case.previous is None:
        return
    for field in ("market", "rules", "institution", "fingerprint"):
        now, before = getattr(case.receipt, field), getattr(case.previous, field)
        if now != before:
            yield f"{field} is {now}, the receipt of round {case.previous.round} said {before}"


_CHECKS: Final[tuple[_Check, ...]] = (
    _own_terms,
    _trades_at_all,
    _purchases,
    _sales,
    _budget,
    _net,
    _balance,
    _chain,
    _same_market,
)


def _bill(receipt: Receipt) -> int:
    return sum(line.amount for line in receipt.bought)


def _units(amount: float) -> int:
    """Return an amount of credits as money, as `clear` does: floor(10⁶ r)."""
    units = amount * MICRO
    return floor(units) if units < inf else 2**1024
