"""Who buys whose model, and what is paid: pure functions on numbers (mechanism.md)."""

from ipfl_flower.market.clearing import MICRO, Clearing, clear
from ipfl_flower.market.invariants import Violation, check
from ipfl_flower.market.mixing import Mixing, MixingError, distances, mixing_matrix, rebased
from ipfl_flower.market.offers import ClearingError
from ipfl_flower.market.selection import threshold
from ipfl_flower.market.terms import Rules, RulesError, Terms, TermsError

__all__ = [
    "MICRO",
    "Clearing",
    "ClearingError",
    "Mixing",
    "MixingError",
    "Rules",
    "RulesError",
    "Terms",
    "TermsError",
    "Violation",
    "check",
    "clear",
    "distances",
    "mixing_matrix",
    "rebased",
    "threshold",
]
