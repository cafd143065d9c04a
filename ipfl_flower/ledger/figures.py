"""What whoever watches a market reads of its ledger: frozen sums, no database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipfl_flower.ledger.checks import NEXT_STATES
from ipfl_flower.ledger.records import Institution, RoundState, State


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """Sums over one round.

    Attributes
    ----------
    number : int
        Round number.
    state : State or None
        Its state; None: it went through impossible ones.
    detail : str or None
        Why it was abandoned.
    reached : Mapping of State to float
        When it reached each state, seconds since 1970.
    participants, active : int
        Institutions that the settlement is of, and of those the ones that traded.
    edges : int
        Purchases.
    volume_micro, net_micro : int
        Sums of the transfers and of everyone's net payment, micro-credits.
    welfare : float
        Sum of the utilities, credits.
    declined, fallbacks : int
        Institutions over their budget; buyers for whom the exact selection gave up.
    """

    number: int
    state: State | None
    detail: str | None
    reached: Mapping[State, float]
    participants: int = 0
    active: int = 0
    edges: int = 0
    volume_micro: int = 0
    net_micro: int = 0
    welfare: float = 0.0
    declined: int = 0
    fallbacks: int = 0

    @property
    def settled(self) -> bool:
        """Whether its market was cleared and paid."""
        return State.SETTLED in self.reached

    @property
    def over(self) -> bool:
        """Whether nothing more can happen in it."""
        return self.state is not None and not NEXT_STATES[self.state]


@dataclass(slots=True)
class Account:
    """Sums over rounds for one institution: micro-credits, credits, and counts."""

    paid_micro: int = 0
    earned_micro: int = 0
    purchases: int = 0
    sales: int = 0
    gain: float = 0.0
    utility: float = 0.0
    declined: int = 0
    replies: int = 0
    failures: int = 0

    def add(self, other: "Account") -> None:
        """Add another institution's sums, or the same one's over other rounds."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Tally:
    """Rounds, by number, and each institution's sums over them, by id."""

    rounds: Sequence[RoundFigures]
    accounts: Mapping[int, Account]


@dataclass(frozen=True)
class Figures:
    """A market at one moment.

    Attributes
    ----------
    over, going : Tally
        Of the rounds asked for: those that nothing more happens in, up to the first other one; and
        the rest. What is over stays as it is, and need not be asked for again.
    settings : Mapping or None
        The market's; None before it began.
    institutions : sequence of Institution
        By id.
    gone : frozenset of int
        Ids of those that left or were expelled.
    last_heard : Mapping of int to int
        Number of the last message that each answered, by id; −1: none.
    metrics : Mapping of int to Mapping
        What each institution reported last about itself, by id.
    state : RoundState or None
        Where the newest round stands; None before the first.
    entered_at : float or None
        When it got there, seconds since 1970.
    events : Mapping of str to int
        Events by kind.
    head : str or None
        Of the chain; None before a round is sealed.
    """

    over: Tally
    going: Tally
    settings: Mapping[str, Any] | None
    institutions: Sequence[Institution]
    gone: frozenset[int]
    last_heard: Mapping[int, int]
    metrics: Mapping[int, Mapping[str, float]]
    state: RoundState | None
    entered_at: float | None
    events: Mapping[str, int]
    head: str | None
