"""Verification: small pure checks, each returning what is wrong.

`SETTLEMENT_CHECKS` look at one settled round, `BOOK_CHECKS` at what joins the rounds together.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ipfl_flower.ledger.chain import next_head, settings_digest
from ipfl_flower.ledger.records import Institution, Settlement, State
from ipfl_flower.market import clear

NEXT_STATES: Final[Mapping[State, frozenset[State]]] = {
    State.OPEN: frozenset({State.COLLECTING, State.ABANDONED}),
    State.COLLECTING: frozenset({State.SETTLED, State.ABANDONED}),
    State.SETTLED: frozenset({State.DELIVERED}),
    State.DELIVERED: frozenset(),
    State.ABANDONED: frozenset(),
}
"""The transitions of a round."""

SEALED: Final = frozenset({State.SETTLED, State.DELIVERED, State.ABANDONED})
"""States of a round that is in the chain: the next may open."""


@dataclass(frozen=True)
class Link:
    """One row of the chain beside the digests taken from the stored rows now."""

    round: int
    previous: str
    digests: str
    head: str
    recomputed: Mapping[str, str]


@dataclass(frozen=True)
class Book:
    """What the checks over all rounds look at.

    Attributes
    ----------
    settings, digest : str or None
        The market's settings and their recorded digest; None before the market began.
    institutions : sequence of Institution
        By id.
    rounds : sequence of int
        Numbers of the rounds, ascending.
    states : Mapping of int to set of State
        The transitions recorded of each round.
    decided : set of int
        Rounds with a row in `settlements`.
    paid : set of int
        Rounds with transfers.
    balances : Mapping of str to int
        Micro-credits by institution.
    links : sequence of Link
        The chain, by round.
    """

    settings: str | None
    digest: str | None
    institutions: Sequence[Institution]
    rounds: Sequence[int]
    states: Mapping[int, set[State]]
    decided: set[int]
    paid: set[int]
    balances: Mapping[str, int]
    links: Sequence[Link]


def _paths(path: tuple[State, ...]) -> Iterator[tuple[frozenset[State], State]]:
    yield frozenset(path), path[-1]
    for state in NEXT_STATES[path[-1]]:
        yield from _paths((*path, state))


_PATHS: Final = dict(_paths((State.OPEN,)))


def current_state(states: Iterable[State]) -> State | None:
    """Tell where a round stands by its transitions; None if they are not a legal path."""
    return _PATHS.get(frozenset(states))


# --- the book: each check yields (where, what) ----------------------------------------------------


def market_is_recorded(book: Book) -> Iterator[tuple[str, str]]:
    """Find settings that are missing or do not fit their digest."""
    if book.settings is None:
        if book.rounds:
            yield "market", "there are rounds, but no settings"
    elif settings_digest(book.settings) != book.digest:
        yield "market", "the settings do not fit their digest"


def institutions_are_numbered(book: Book) -> Iterator[tuple[str, str]]:
    """Find gaps in 0, 1, 2, …, the market's order."""
    for expected, institution in enumerate(book.institutions):
        if institution.id != expected:
            yield "institutions", f"{institution.name} is number {institution.id}, not {expected}"
            return


def rounds_are_contiguous(book: Book) -> Iterator[tuple[str, str]]:
    """Find gaps in the numbers of the rounds."""
    for expected, number in enumerate(book.rounds):
        if number != expected:
            yield f"round {expected}", "is missing"
            return


def rounds_follow_each_other(book: Book) -> Iterator[tuple[str, str]]:
    """Find rounds that a later one did not wait for: to settle to open, to deliver to collect."""
    collecting = [n for n, states in book.states.items() if State.COLLECTING in states]
    for number in book.rounds:
        state = current_state(book.states.get(number, set()))
        if state in {State.OPEN, State.COLLECTING} and number != book.rounds[-1]:
            yield f"round {number}", f"is still {state}, and a later one is open"
        if state is State.SETTLED and number < max(collecting):
            yield f"round {number}", "is not DELIVERED, and a later one is COLLECTING"


def transitions_are_legal(book: Book) -> Iterator[tuple[str, str]]:
    """Find rounds whose states are not a path of `NEXT_STATES`."""
    for number in book.rounds:
        states = book.states.get(number, set())
        if current_state(states) is None:
            yield f"round {number}", f"went through {', '.join(sorted(states)) or 'no state'}"


def only_settled_rounds_pay(book: Book) -> Iterator[tuple[str, str]]:
    """Find settled rounds without a settlement, and others that have one, or transfers."""
    settled = {n for n in book.rounds if State.SETTLED in book.states.get(n, set())}
    for number in sorted(settled - book.decided):
        yield f"round {number}", "is SETTLED without a settlement"
    for number in sorted((book.decided | book.paid) - settled):
        yield f"round {number}", "is not SETTLED but has a settlement or transfers"


def balances_sum_to_zero(book: Book) -> Iterator[tuple[str, str]]:
    """See that what one institution has, another has paid."""
    total = sum(book.balances.values())
    if total != 0:
        yield "entries", f"balances sum to {total} micro-credits, not 0"


def chain_is_unbroken(book: Book) -> Iterator[tuple[str, str]]:
    """Find rows that do not fit their digests, and links that do not fit the head before them."""
    sealed = {n for n in book.rounds if current_state(book.states.get(n, set())) in SEALED}
    linked = {link.round for link in book.links}
    for number in sorted(sealed ^ linked):
        missing = "is settled or abandoned but not" if number in sealed else "is unfinished but"
        yield f"round {number}", f"{missing} in the chain"
    head = book.digest
    for link in book.links:
        where = f"round {link.round}"
        if link.previous != head:
            yield where, "does not follow the head before it"
        try:
            recorded, expected = json.loads(link.digests), next_head(link.previous, link.digests)
        except ValueError as error:
            yield where, f"its link in the chain cannot be read: {error}"
        else:
            if expected != link.head:
                yield where, "its head does not fit its digests"
            for table in sorted({*recorded, *link.recomputed}):
                if recorded.get(table) != link.recomputed.get(table):
                    yield where, f"rows of {table} are not those that were sealed"
        head = link.head


BOOK_CHECKS: Final[Sequence[Callable[[Book], Iterator[tuple[str, str]]]]] = (
    market_is_recorded,
    institutions_are_numbered,
    rounds_are_contiguous,
    rounds_follow_each_other,
    transitions_are_legal,
    only_settled_rounds_pay,
    balances_sum_to_zero,
    chain_is_unbroken,
)


# --- one settlement -------------------------------------------------------------------------------


def shapes_fit(settlement: Settlement) -> Iterator[str]:
    """Find what has not the shape and type that the number of participants gives it."""
    ids, cleared = settlement.participants, settlement.clearing
    m = len(ids)
    if list(ids) != sorted(set(ids)):
        yield f"participants {ids} are not ascending"
    for name in ("terms", "model_digests", "metrics"):
        if len(getattr(settlement, name)) != m:
            yield f"{len(getattr(settlement, name))} {name} for {m} participants"
    arrays = (
        ("distances", settlement.distances, (m, m), np.float64),
        ("active", settlement.active, (m,), np.bool_),
        ("imports", cleared.imports, (m, m), np.bool_),
        ("transfers", cleared.transfers, (m, m), np.int64),
        ("net", cleared.net, (m,), np.int64),
        ("gains", cleared.gains, (m,), np.float64),
        ("utilities", cleared.utilities, (m,), np.float64),
        ("declined", cleared.declined, (m,), np.bool_),
    )
    for name, array, shape, dtype in arrays:
        if array.shape != shape or array.dtype != dtype:
            yield f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}"
    for name in ("gains", "utilities"):
        if not np.isfinite(getattr(cleared, name)).all():
            yield f"{name} are not finite"


def graph_is_clean(settlement: Settlement) -> Iterator[str]:
    """Find imports of one's own model, of or by the inactive, and by those who declined."""
    ids, imports = settlement.participants, settlement.clearing.imports
    for i, institution in enumerate(ids):
        if imports[i, i]:
            yield f"institution {institution} buys from itself"
        if not settlement.active[i] and (imports[i].any() or imports[:, i].any()):
            yield f"institution {institution} is not active but trades"
        if settlement.clearing.declined[i] and imports[i].any():
            yield f"institution {institution} declined but buys"


def transfers_follow_the_graph(settlement: Settlement) -> Iterator[str]:
    """Find money that does not follow an import, or moves backwards."""
    ids, cleared = settlement.participants, settlement.clearing
    wrong = (cleared.transfers < 0) | ((cleared.transfers != 0) & ~cleared.imports)
    for buyer, seller in np.argwhere(wrong):
        amount, what = cleared.transfers[buyer, seller], "is negative or follows no import"
        yield f"the transfer of {amount} from {ids[buyer]} to {ids[seller]} {what}"


def net_is_what_was_paid(settlement: Settlement) -> Iterator[str]:
    """See that p_i = Σ_j r_ij − Σ_j r_ji (mechanism.md §4), and Σ_i p_i = 0."""
    ids, cleared = settlement.participants, settlement.clearing
    derived = cleared.transfers.sum(axis=1) - cleared.transfers.sum(axis=0)
    for i in np.flatnonzero(derived != cleared.net):
        yield f"institution {ids[i]} has net {cleared.net[i]}, its transfers make {derived[i]}"
    total = sum(cleared.net.tolist())
    if total != 0:
        yield f"net payments sum to {total}, not 0"


def clearing_is_recomputed(settlement: Settlement) -> Iterator[str]:
    """Clear the recorded inputs again: the same decisions, gains and utilities within rounding."""
    ids, recorded = settlement.participants, settlement.clearing
    try:
        again = clear(settlement.terms, settlement.distances, settlement.rules, settlement.active)
    except ValueError as error:
        yield f"the recorded inputs cannot be cleared: {error}"
        return
    for name in ("imports", "transfers"):
        ours, theirs = getattr(again, name), getattr(recorded, name)
        for buyer, seller in np.argwhere(ours != theirs)[:1]:
            yield (
                f"{name} of buyer {ids[buyer]} from seller {ids[seller]}: recorded "
                f"{theirs[buyer, seller]}, recomputed {ours[buyer, seller]}"
            )
    for name in ("net", "declined", "gains", "utilities"):
        ours, theirs = getattr(again, name), getattr(recorded, name)
        exact = ours.dtype != np.float64
        differs = ours != theirs if exact else ~np.isclose(ours, theirs, rtol=1e-9, atol=1e-9)
        for i in np.flatnonzero(differs)[:1]:
            yield f"{name} of {ids[i]}: recorded {theirs[i]}, recomputed {ours[i]}"
    if again.fallbacks != recorded.fallbacks:
        yield f"fallbacks: recorded {recorded.fallbacks}, recomputed {again.fallbacks}"


CHEAP_CHECKS: Final[Sequence[Callable[[Settlement], Iterator[str]]]] = (
    graph_is_clean,
    transfers_follow_the_graph,
    net_is_what_was_paid,
)
SETTLEMENT_CHECKS: Final = (*CHEAP_CHECKS, clearing_is_recomputed)


def settlement_faults(
    settlement: Settlement,
    checks: Iterable[Callable[[Settlement], Iterator[str]]] = SETTLEMENT_CHECKS,
) -> Iterator[tuple[str, str]]:
    """Yield (check, what is wrong) for a settlement; with wrong shapes, nothing else is checked."""
    misshapen = False
    for fault in shapes_fit(settlement):
        misshapen = True
        yield shapes_fit.__name__, fault
    if not misshapen:
        for check in checks:
            yield from ((check.__name__, fault) for fault in check(settlement))
