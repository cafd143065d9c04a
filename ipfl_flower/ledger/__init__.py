"""The durable record of a market: rounds, reports, transfers, their hash chain, and its checks."""

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
    "ContractError",
    "EnrolmentError",
    "Event",
    "Institution",
    "Ledger",
    "LedgerError",
    "Line",
    "Outcome",
    "Problem",
    "Report",
    "RoundHistory",
    "RoundState",
    "RoundSummary",
    "Settlement",
    "State",
    "Statement",
    "restore",
    "upgrade",
]
