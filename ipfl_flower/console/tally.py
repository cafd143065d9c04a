"""A running sum over rounds: what is over is counted once, however often a market is looked at."""

from bisect import bisect_left
from collections import Counter, defaultdict
from copy import deepcopy
from enum import StrEnum
from typing import Final

from ipfl_flower.ledger import Account, RoundFigures, State, Tally
from ipfl_flower.quorum import SHORT
from ipfl_flower.settlement import INVARIANT

BUCKETS_S: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)


class Outcome(StrEnum):
    """How a round ended."""

    SETTLED = "settled"
    QUORUM = "quorum"
    INVARIANT = "invariant"
    OTHER = "other"


class Phase(StrEnum):
    """What a round does for a while."""

    INVITING = "inviting"
    COLLECTING = "collecting"
    DELIVERING = "delivering"


_PHASES: Final = (
    (Phase.INVITING, (State.OPEN,), (State.COLLECTING,)),
    (Phase.COLLECTING, (State.COLLECTING,), (State.SETTLED, State.ABANDONED)),
    (Phase.DELIVERING, (State.SETTLED,), (State.DELIVERED,)),
)


class Durations:
    """A histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; a clock that was set back makes none negative."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound."""
        bounds, total = [*map(str, map(float, BUCKETS_S)), "+Inf"], 0
        cumulative: list[tuple[str, float]] = []
        for bound, count in zip(bounds, self.counts, strict=True):
            total += count
            cumulative.append((bound, total))
        return cumulative


class Totals:
    """Sums over all rounds so far.

    Attributes
    ----------
    outcomes : Counter of Outcome
    phases : dict of Phase to Durations
    accounts : dict of int to Account
        By institution id.
    volume_micro, imbalance_micro : int
        Sum of the transfers; and of the rounds' |Σ net|, which must be 0.
    edges, fallbacks : int
    last : RoundFigures or None
        The last settled round.
    last_outcome : Outcome or None
        Of the last round that ended.
    without_purchases : int
        Settled rounds in a row, up to the last, in which nobody bought.
    through : int
        The last round that is over and counted; −1: none.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.phases = {phase: Durations() for phase in Phase}
        self.accounts: dict[int, Account] = defaultdict(Account)
        self.volume_micro = 0
        self.imbalance_micro = 0
        self.edges = 0
        self.fallbacks = 0
        self.last: RoundFigures | None = None
        self.last_outcome: Outcome | None = None
        self.without_purchases = 0
        self.through = -1

    def add(self, tally: Tally) -> None:
        """Count rounds that follow those counted."""
        for item in tally.rounds:
            self._add_round(item)
            self.through = item.number
        for institution, account in tally.accounts.items():
            self.accounts[institution].add(account)

    def plus(self, tally: Tally) -> "Totals":
        """Return the sums with those of further rounds, and leave these as they are."""
        both = deepcopy(self)
        both.add(tally)
        return both

    def _add_round(self, item: RoundFigures) -> None:
        for phase, begins, ends in _PHASES:
            began = [item.reached[state] for state in begins if state in item.reached]
            ended = [item.reached[state] for state in ends if state in item.reached]
            if began and ended:
                self.phases[phase].observe(ended[0] - began[0])
        if item.settled:
            self._end(Outcome.SETTLED)
            self.last = item
            self.without_purchases = 0 if item.edges else self.without_purchases + 1
            self.volume_micro += item.volume_micro
            self.imbalance_micro += abs(item.net_micro)
            self.edges += item.edges
            self.fallbacks += item.fallbacks
        elif item.detail is not None:
            self._end(outcome(item.detail))

    def _end(self, how: Outcome) -> None:
        self.outcomes[how] += 1
        self.last_outcome = how


def outcome(reason: str) -> Outcome:
    """Tell by its reason what an abandoned round was abandoned for."""
    if reason.startswith(INVARIANT):
        return Outcome.INVARIANT
    return Outcome.QUORUM if SHORT in reason else Outcome.OTHER
