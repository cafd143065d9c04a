"""A settled round in the few numbers that a tracker draws: no tracker, no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Protocol

from ipfl_flower.console.book import SETTLED
from ipfl_flower.ledger import MICRO, RoundHistory, State

ACCURACIES: Final = {"accuracy": "test_accuracy", "best_accuracy": "best_test_accuracy"}
"""What is drawn of what institutions report of themselves, and what the trainer calls it."""


@dataclass(frozen=True)
class Market:
    """Which market it is.

    Attributes
    ----------
    id : str
        SHA-256 of its settings, as in receipts.
    settings : mapping
        As in its ledger.
    began_at : float
        When its first round was opened, seconds since 1970.
    """

    id: str
    settings: Mapping[str, Any]
    began_at: float


@dataclass(frozen=True)
class Institution:
    """Whose figures they are: `id` is its place in the market's order."""

    id: int
    name: str


@dataclass(frozen=True)
class Point:
    """Figures of one round.

    Attributes
    ----------
    round : int
    at : float
        When it was settled, seconds since 1970.
    values : mapping of str to float
        By name, all finite; money in credits.
    """

    round: int
    at: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Where figures go. Writing what is there already changes nothing."""

    place: str
    """Where that is, for people to read."""

    def write(self, market: Market, whose: Institution | None, point: Point) -> None:
        """Write an institution's figures of one round, or None's: the market's."""

    def flush(self, *, finished: bool) -> None:
        """See that what was written can be read, and say whether the market is over."""

    def close(self) -> None:
        """Let go of files and connections."""


def is_settled(history: RoundHistory) -> bool:
    """Tell whether a round has figures."""
    return history.state in SETTLED


def market_point(history: RoundHistory) -> Point:
    """Return a settled round's sums.

    ``welfare`` (sum of the utilities) and ``volume`` (of what was paid) in credits, ``purchases``
    (edges), ``density`` (of those possible among the participants), ``participants`` (who traded),
    ``declined`` (over their budget).
    """
    count = sum(outcome.active for outcome in history.outcomes.values())
    possible = count * (count - 1)
    values = {
        "welfare": sum(outcome.utility for outcome in history.outcomes.values()),
        "volume": history.volume_micro / MICRO,
        "purchases": history.edges,
        "density": history.edges / possible if possible else 0.0,
        "participants": count,
        "declined": sum(outcome.declined for outcome in history.outcomes.values()),
    }
    return _point(history, values)


def institution_point(history: RoundHistory, institution: int) -> Point:
    """Return what a settled round was to one participant.

    ``utility``, ``gain`` and ``net`` (paid − earned) in credits; ``accuracy`` and
    ``best_accuracy`` on its own test data, where it reports them.
    """
    outcome, metrics = history.outcomes[institution], history.metrics.get(institution, {})
    net = history.paid.get(institution, 0) - history.earned.get(institution, 0)
    values = {"utility": outcome.utility, "gain": outcome.gain, "net": net / MICRO}
    reported = {name: metrics[key] for name, key in ACCURACIES.items() if key in metrics}
    return _point(history, values | reported)


def _point(history: RoundHistory, values: Mapping[str, float]) -> Point:
    finite = {name: float(value) for name, value in values.items() if isfinite(value)}
    return Point(history.number, history.steps[State.SETTLED], finite)
