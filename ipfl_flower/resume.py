"""Where a market stood when its server died, read from the ledger and the banks on disk."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ipfl_flower import market
from ipfl_flower.ledger import Ledger, Report, RoundState, Settlement, State
from ipfl_flower.models import BankError, ModelBank, Reference
from ipfl_flower.notary import Minutes, Notary
from ipfl_flower.settings import Settings
from ipfl_flower.settlement import Delivery, deliver

UNFINISHED = (State.OPEN, State.COLLECTING)


class ResumeError(RuntimeError):
    """A market can't go on from what is on disk; the message names the file and the fix."""


@dataclass(frozen=True)
class Standing:
    """Where a market stands.

    Attributes
    ----------
    next_round : int
        The round to play next: one that was begun and not settled, or a new one.
    unfinished : RoundState or None
        Of `next_round`, if it was begun.
    undelivered : int or None
        The settled round whose outcome has not been sent out, as far as the ledger knows.
    owed : dict of int to list of int
        Settled rounds, and the institutions that have not answered the message with their outcome.
    banks : frozenset of int
        Rounds whose models are still needed: somebody is owed a centre, or they are not settled.
    """

    next_round: int
    unfinished: RoundState | None
    undelivered: int | None
    owed: dict[int, list[int]]
    banks: frozenset[int]


def standing(ledger: Ledger) -> Standing:
    """Read where the market stands; at round 0 for a new ledger."""
    summaries = ledger.rounds()
    if not summaries:
        return Standing(0, None, None, {}, frozenset())
    last = ledger.state()
    unfinished = last if last is not None and last.state in UNFINISHED else None
    undelivered = [item.number for item in summaries if item.state is State.SETTLED]
    heard = ledger.last_heard()
    owed: dict[int, list[int]] = {}
    banks = set() if unfinished is None else {unfinished.number}
    seen: set[int] = set()
    for item in reversed(summaries):
        if len(seen) == len(heard):
            break
        if item.state not in (State.SETTLED, State.DELIVERED):
            continue
        settlement = ledger.settlement(item.number)
        for position, i in enumerate(settlement.participants):
            if i not in seen and heard[i] <= item.number:
                owed.setdefault(item.number, []).append(i)
                if settlement.clearing.imports[position].any():
                    banks.add(item.number)
            seen.add(i)
    next_round = summaries[-1].number + (unfinished is None)
    last_settled = undelivered[-1] if undelivered else None
    return Standing(next_round, unfinished, last_settled, owed, frozenset(banks))


class Banks:
    """The banks of a market's rounds, one file each.

    Parameters
    ----------
    folder : Path
    reference : Reference
        θ_ref; closed with this.
    ledger : Ledger
        Says how many institutions a round has.
    notary : Notary
        Signs again what a delivery says: to the same bytes.
    """

    def __init__(
        self,
        folder: Path,
        reference: Reference,
        ledger: Ledger,
        notary: Notary,
    ) -> None:
        self._folder = folder
        self.reference = reference
        self._ledger = ledger
        self._notary = notary

    def close(self) -> None:
        """Close θ_ref; banks are closed by who opened them."""
        self.reference.close()

    def open(self, number: int) -> ModelBank:
        """Open the bank of a round that has begun, or make it: a row for each institution asked."""
        state = self._ledger.state(number)
        rows = 1 + max(() if state is None else state.asked, default=0)
        return ModelBank(self._path(number), self.reference.layout, rows, self.reference)

    def continued(self, number: int, reports: Mapping[int, Report]) -> ModelBank:
        """Open the bank of a round and see that it holds what was reported.

        Raises
        ------
        ResumeError
            If a reported model is not there, or not what was reported.
        """
        bank = self.open(number)
        for i, report in reports.items():
            try:
                intact = report.leaving or bank.digest(i) == report.model_digest
            except BankError:
                intact = False
            if not intact:
                bank.close()
                raise ResumeError(
                    f"{bank.path} does not hold the model that institution {i} reported in round "
                    f"{number}: restore the folder from a backup, or start a new market"
                )
        return bank

    def delivery(self, number: int, settings: Settings, *, centres: bool) -> Delivery:
        """Make what a settled round brings once more, to the same bytes.

        Parameters
        ----------
        number : int
            The round.
        settings : Settings
        centres : bool
            Whether somebody is still owed a centre; if nobody is, the bank is gone.

        Raises
        ------
        ResumeError
            If the models on disk are not those that the round was settled with.
        """
        settlement = self._ledger.settlement(number)
        minutes = Minutes.of(self._ledger, settlement)
        if not centres:
            return Delivery(settlement, None, {}, minutes, self._notary)
        reports = {report.institution: report for report in self._ledger.reports(number)}
        bank = self.continued(number, reports)
        gram = bank.gram()
        _require_same_distances(bank, gram, settlement, settings)
        return deliver(minutes, gram, bank, settings, self._notary)

    def found(self) -> list[str]:
        """Return the names of bank files that lie in the folder."""
        return sorted(file.name for file in self._folder.glob("round-*.bank"))

    def keep_only(self, numbers: Iterable[int]) -> None:
        """Delete the banks of all other rounds: nobody is owed anything of theirs."""
        kept = {self._path(number).name for number in numbers}
        for file in self._folder.glob("round-*.bank*"):
            if file.name not in kept:
                file.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:06d}.bank"


def _require_same_distances(
    bank: ModelBank, gram: NDArray[np.float64], settlement: Settlement, settings: Settings
) -> None:
    index = np.ix_(settlement.participants, settlement.participants)
    again = market.distances(gram[index], settings.distance, settings.reference, settlement.active)
    if not np.array_equal(again, settlement.distances, equal_nan=True):
        bank.close()
        raise ResumeError(
            f"{bank.path} gives other distances than round {settlement.round} was settled with: "
            "it is damaged; restore the folder from a backup, or start a new market"
        )
