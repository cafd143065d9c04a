"""What goes into the ledger and what comes out: frozen values, no database."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market import Clearing, Rules, Terms


class LedgerError(RuntimeError):
    """The ledger refused something; the message names it and says what to do."""


class ContractError(LedgerError):
    """The ledger belongs to a market with other settings; the message names them."""


class EnrolmentError(LedgerError):
    """An institution can't be enrolled under that name, key or cap."""


class State(StrEnum):
    """Where a round stands."""

    OPEN = "OPEN"
    COLLECTING = "COLLECTING"
    SETTLED = "SETTLED"
    DELIVERED = "DELIVERED"
    ABANDONED = "ABANDONED"


@dataclass(frozen=True, slots=True)
class Institution:
    """An institution of the market, known by its public key.

    Attributes
    ----------
    id : int
        Position in the market's order, 0, 1, 2, …
    name : str
        Unique name.
    public_key : bytes
        Its node's public key, as given.
    samples_cap : int or None
        The most samples that its contract lets it report; None: no limit.
    """

    id: int
    name: str
    public_key: bytes
    samples_cap: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """What one institution replied in one round.

    Attributes
    ----------
    round, institution : int
        Round number and institution id.
    terms : Terms
        The terms that count in this round.
    model_digest : str
        Digest of the model that lies in the bank; may be empty if it is leaving.
    leaving : bool
        Whether the institution leaves after this round.
    metrics : Mapping of str to float
        The institution's own metrics.
    """

    round: int
    institution: int
    terms: Terms
    model_digest: str
    leaving: bool
    metrics: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Settlement:
    """A settled round: what the market was given, and what it decided.

    Attributes
    ----------
    round : int
        Round number.
    participants : tuple of int
        Ids of all institutions that reported, ascending: the positions of everything below.
    terms : tuple of Terms
        Terms by participant, as reported.
    distances : float64 (m, m)
        d_ij of mechanism.md §2; NaN: not tradable.
    active : bool (m,)
        Which participants trade.
    rules : Rules
        The rules of the clearing.
    clearing : Clearing
        What `clear(terms, distances, rules, active)` returned.
    model_digests : tuple of str
        Model digests by participant, as reported.
    metrics : tuple of Mapping
        Metrics by participant, as reported.
    """

    round: int
    participants: tuple[int, ...]
    terms: tuple[Terms, ...]
    distances: NDArray[np.float64]
    active: NDArray[np.bool_]
    rules: Rules
    clearing: Clearing
    model_digests: tuple[str, ...]
    metrics: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True)
class RoundState:
    """Which round it is, which phase, whom it waits for and until when.

    Attributes
    ----------
    number : int
        Round number.
    state : State
        Its state.
    asked, reported : tuple of int
        Institution ids, ascending.
    failed : Mapping of int to str
        Institutions that have not reported and whose reply was refused or failed, with the reason.
    quorum : int
        Reports needed to settle.
    deadline_s : float
        Seconds allowed from the start of collecting.
    deadline_at : float or None
        End of collecting, seconds since 1970; None before collecting. A round that was resumed
        waits its whole deadline again.
    detail : str or None
        Why the round was abandoned.
    """

    number: int
    state: State
    asked: tuple[int, ...]
    reported: tuple[int, ...]
    failed: Mapping[int, str]
    quorum: int
    deadline_s: float
    deadline_at: float | None
    detail: str | None

    @property
    def waiting(self) -> tuple[int, ...]:
        """Institutions asked that have neither reported nor failed."""
        return tuple(i for i in self.asked if i not in self.reported and i not in self.failed)


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """One line about a round.

    Attributes
    ----------
    number : int
        Round number.
    state : State
        Its state.
    participants : int
        Institutions that have reported.
    edges : int
        Imports.
    volume_micro : int
        Sum of the transfers, micro-credits.
    welfare : float
        Sum of the utilities, credits.
    head : str or None
        Head of the chain after this round; None while it is neither settled nor abandoned.
    """

    number: int
    state: State
    participants: int
    edges: int
    volume_micro: int
    welfare: float
    head: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One entry in an institution's statement; `balance_micro` is its balance afterwards."""

    round: int
    counterparty: str
    direction: Literal["paid", "earned"]
    amount_micro: int
    balance_micro: int


@dataclass(frozen=True, slots=True)
class Statement:
    """An institution's account, in micro-credits.

    Attributes
    ----------
    name : str
        The institution.
    lines : tuple of Line
        Its entries in the order in which they were made.
    paid, earned : int
        Sums of the lines of each direction.
    """

    name: str
    lines: tuple[Line, ...]
    paid: int
    earned: int

    @property
    def net(self) -> int:
        """Net payment: paid − earned, the p_i of mechanism.md §4 summed over the rounds."""
        return self.paid - self.earned

    @property
    def balance(self) -> int:
        """What the account holds: earned − paid."""
        return self.earned - self.paid


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the server: what kind, in words, and when (seconds since 1970)."""

    kind: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that verification found: which check, where, and what is wrong."""

    check: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} [{self.check}]"
