"""What the console knows of a market: every round in a few numbers, read once and kept."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.ledger import Event, Institution, Ledger, RoundHistory, State

CHUNK: Final = 25
"""Rounds that are read at a time: bounds the memory, and how long a snapshot is held."""

DIGITS: Final = 5
"""Decimals of what is drawn."""

FINAL: Final = (State.DELIVERED, State.ABANDONED)
SETTLED: Final = (State.SETTLED, State.DELIVERED)

ACCURACIES: Final = {
    "trained": "test_accuracy",
    "best": "best_test_accuracy",
    "centre": "centre_test_accuracy",
}
"""The accuracies that are drawn, and what the trainer's metrics call them."""


@dataclass(frozen=True, eq=False)
class Page:
    """One round.

    Attributes
    ----------
    history : RoundHistory
        Without metrics and outcomes, which are below.
    utilities : float64 (m,)
        U_i, credits, by institution id; NaN: took no part.
    accuracies : mapping of str to float64 (m,)
        As in `ACCURACIES`; NaN: unknown.
    paid, earned : tuple of int
        By institution id, summed over all rounds up to this one, micro-credits.
    """

    history: RoundHistory
    utilities: NDArray[np.float64]
    accuracies: Mapping[str, NDArray[np.float64]]
    paid: tuple[int, ...]
    earned: tuple[int, ...]

    @property
    def number(self) -> int:
        """The round's number."""
        return self.history.number

    @property
    def state(self) -> State:
        """Where the round stands."""
        return self.history.state

    def balance(self, institution: int) -> int:
        """Return what an account holds after the round, micro-credits; 0 if it is younger."""
        if institution >= len(self.paid):
            return 0
        return self.earned[institution] - self.paid[institution]


@dataclass(frozen=True, eq=False)
class Book:
    """A market as it stood when it was read.

    Attributes
    ----------
    institutions : tuple of Institution
        By id.
    pages : tuple of Page
        By round.
    events : tuple of Event
        Oldest first.
    expelled : mapping of int to str
    server : str or None
        The process that serves the market.
    """

    institutions: tuple[Institution, ...] = ()
    pages: tuple[Page, ...] = ()
    events: tuple[Event, ...] = ()
    expelled: Mapping[int, str] | None = None
    server: str | None = None

    @cached_property
    def names(self) -> list[str]:
        """The institutions' names, by id."""
        return [item.name for item in self.institutions]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The institutions' ids, by name."""
        return {item.name: item.id for item in self.institutions}

    @cached_property
    def version(self) -> str:
        """Something that changes when the market gets on."""
        last = self.pages[-1].history if self.pages else None
        known = (
            len(self.institutions),
            len(self.pages),
            len(self.events),
            sorted((self.expelled or {}).items()),
            self.server,
            last and (last.number, last.state, sorted(last.reported), sorted(last.failed)),
            [page.history.head for page in self.pages[-2:]],
        )
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

    @cached_property
    def head(self) -> str | None:
        """The chain's head after the last sealed round; None before there is one."""
        sealed = (page.history.head for page in reversed(self.pages))
        return next((head for head in sealed if head), None)

    @cached_property
    def settled(self) -> list[int]:
        """Numbers of the settled rounds."""
        return [page.number for page in self.pages if page.state in SETTLED]

    @cached_property
    def utilities(self) -> NDArray[np.float64]:
        """U_i by round and institution, (rounds, m); NaN: took no part."""
        return self._stacked(lambda page: page.utilities)

    @cached_property
    def summed_utilities(self) -> NDArray[np.float64]:
        """U_i summed up to each round, (rounds, m); no share in a round counts as 0."""
        return np.cumsum(np.nan_to_num(self.utilities), axis=0)

    def accuracies(self, kind: str) -> NDArray[np.float64]:
        """Return accuracies by round and institution, (rounds, m); NaN: unknown."""
        if kind not in self._accuracies:
            self._accuracies[kind] = self._stacked(lambda page: page.accuracies[kind])
        return self._accuracies[kind]

    @cached_property
    def _accuracies(self) -> dict[str, NDArray[np.float64]]:
        """Tables made so far, by kind: each takes a while to make of many rounds."""
        return {}

    def _stacked(self, column: Callable[[Page], NDArray[np.float64]]) -> NDArray[np.float64]:
        table = np.full((len(self.pages), len(self.institutions)), np.nan)
        for row, page in enumerate(self.pages):
            values = column(page)
            table[row, : len(values)] = values
        return table

    @cached_property
    def first_accuracies(self) -> NDArray[np.float64]:
        """The accuracy that each institution reported first, trained alone; NaN: unknown."""
        trained = self.accuracies("trained")
        known = ~np.isnan(trained)
        first = np.full(trained.shape[1], np.nan)
        for i in np.flatnonzero(known.any(axis=0)):
            first[i] = trained[np.argmax(known[:, i]), i]
        return first


def read_book(ledger: Ledger, before: Book | None = None) -> Book:
    """Read a market; what `before` has of rounds that are over is not read again.

    A ledger that another was put in the place of (a backup, say) is read from its beginning.

    Raises
    ------
    LedgerError
        The ledger can't be read.
    """
    pages = list(before.pages) if before else []
    while pages and pages[-1].state not in FINAL:
        pages.pop()
    # At most two rounds at the end are not over: one that is settled, and the one after it.
    while pages and any(page.state not in FINAL for page in pages[-2:]):
        pages.pop()
    if not is_sealed_by(ledger, len(pages), pages[-1].history.head if pages else None):
        before, pages = None, []
    institutions = tuple(ledger.institutions())
    while rounds := ledger.history(len(pages), CHUNK):
        for history in rounds:
            last = pages[-1] if pages else None
            pages.append(_page(history, last, len(institutions)))
        if len(rounds) < CHUNK:
            break
    kept = before.events if before else ()
    return Book(
        institutions=institutions,
        pages=tuple(pages),
        events=(*kept, *ledger.events(after=len(kept))),
        expelled=ledger.expelled(),
        server=ledger.server(),
    )


def is_sealed_by(ledger: Ledger, rounds: int, head: str | None) -> bool:
    """Tell whether a ledger's first `rounds` rounds, one or more, are those sealed by `head`.

    What was read of a ledger goes on to hold only then: another may have been put in its place.
    """
    return rounds > 0 and ledger.settings is not None and ledger.head(before=rounds) == head


def iso(at: float | None) -> str | None:
    """Write a time, seconds since 1970, as ISO 8601 in UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat("T", "seconds")


def series(values: NDArray[np.float64]) -> list[list[float | None]]:
    """Return each column of a table as a list, rounded to what a picture shows."""
    rounded = np.round(values, DIGITS).astype(object)
    rounded[np.isnan(values)] = None
    columns: list[list[float | None]] = rounded.T.tolist()
    return columns


def known(value: float) -> float | None:
    """Return a number, None if there is none: JSON has neither NaN nor infinity."""
    return float(value) if isfinite(value) else None


def _page(history: RoundHistory, before: Page | None, count: int) -> Page:
    # An institution that was enrolled a moment later shows with the next round.
    count = max([count, *(i + 1 for i in history.asked)])
    utilities = np.full(count, np.nan)
    for i, outcome in history.outcomes.items():
        utilities[i] = outcome.utility
    accuracies = {kind: np.full(count, np.nan) for kind in ACCURACIES}
    for i, metrics in history.metrics.items():
        for kind, name in ACCURACIES.items():
            value = metrics.get(name, np.nan)
            if 0 <= value <= 1:  # institutions may report anything
                accuracies[kind][i] = value
    return Page(
        history=replace(history, metrics={}, outcomes={}),
        utilities=utilities,
        accuracies=accuracies,
        paid=_added(before.paid if before else (), history.paid, count),
        earned=_added(before.earned if before else (), history.earned, count),
    )


def _added(before: tuple[int, ...], now: Mapping[int, int], count: int) -> tuple[int, ...]:
    return tuple((before[i] if i < len(before) else 0) + now.get(i, 0) for i in range(count))
