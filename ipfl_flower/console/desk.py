"""What requests share: who is let in, what the ledger says, what was answered before."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from prometheus_client import CollectorRegistry

from ipfl_flower.console.access import Gate
from ipfl_flower.console.answers import Answers
from ipfl_flower.console.book import SETTLED, Book, Page
from ipfl_flower.console.follower import Follower
from ipfl_flower.console.metrics import market_registry
from ipfl_flower.console.verifier import VerificationCollector
from ipfl_flower.ledger import Settlement

SETTLEMENTS_MAX: Final = 8
"""Rounds whose settlements are kept: who asks why asks again."""


@dataclass
class Desk:
    """What the requests need: who is let in, what the ledger says, what was answered before."""

    gate: Gate
    follower: Follower
    answers: Answers = field(default_factory=Answers)

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Return Prometheus' view of the market: kept, for it sums up a settled round once."""
        verification = VerificationCollector(lambda: self.follower.verified)
        return market_registry(self.follower.ledger, verification)

    @property
    def book(self) -> Book:
        """The market as it was read last."""
        return self.follower.book

    @cached_property
    def _load(self) -> Callable[[int, str | None], Settlement]:
        """Load the settlement of a round that is sealed by a head."""
        return lru_cache(SETTLEMENTS_MAX)(lambda number, _: self.follower.ledger.settlement(number))

    def settlement(self, page: Page) -> Settlement | None:
        """Load what a round settled; None if nothing."""
        return self._load(page.number, page.history.head) if page.state in SETTLED else None
