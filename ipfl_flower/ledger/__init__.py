"""The durable record of a market: rounds, reports, transfers, their hash chain, and its checks."""

from ipfl_flower.ledger.figures import Account, Figures, RoundFigures, Tally
from ipfl_flower.ledger.history import Outcome, RoundHistory
from ipfl_flower.ledger.ledger import Ledger
from ipfl_flower.ledger.records import (
    ContractError,
    EnrolmentError,
    Event,
    Institution,
    LedgerError,
    Line,
    Problem,
    Report,
    RoundState,
    RoundSummary,
    Settlement,
    State,
    Statement,
)
from ipfl_flower.ledger.tables import MICRO
from ipfl_flower.ledger.upkeep import restore, upgrade

__all__ = [
    "MICRO",
    "Account",
    "ContractError",
    "EnrolmentError",
    "Event",
    "Figures",
    "Institution",
    "Ledger",
    "LedgerError",
    "Line",
    "Outcome",
    "Problem",
    "Report",
    "RoundFigures",
    "RoundHistory",
    "RoundState",
    "RoundSummary",
    "Settlement",
    "State",
    "Statement",
    "Tally",
    "restore",
    "upgrade",
]
