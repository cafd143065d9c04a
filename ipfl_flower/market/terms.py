"""What an institution reports, and the rules it is reported under (mechanism.md §1, §8)."""

from dataclasses import dataclass
from math import inf, isfinite
from numbers import Integral, Real
from typing import Final, Literal, TypeAlias

Mechanism: TypeAlias = Literal["truthful", "paper"]
Selection: TypeAlias = Literal["greedy", "skip", "exact"]
Payment: TypeAlias = Literal["marginal", "critical"]

SAMPLES_MAX: Final = 2**53
"""The largest N that float64 holds exactly."""

_MECHANISMS: Final[dict[str, tuple[Selection, Payment]]] = {
    "truthful": ("exact", "critical"),
    "paper": ("greedy", "marginal"),
}


class TermsError(ValueError):
    """A report is out of its range; the message names the field, the value and the fix."""


class RulesError(ValueError):
    """A rule is unknown or out of its range; the message names it and the fix."""


@dataclass(frozen=True)
class Terms:
    """The terms on which an institution trades in a round.

    Parameters
    ----------
    samples : int
        N ≥ 0, training samples. With none it neither buys nor sells.
    cost : float
        c ≥ 0, credits: what one sale costs it. `inf`: does not sell.
    eagerness : float
        K ≥ 0, credits² · samples. 0: does not buy.
    budget : float, default inf
        B ≥ 0, credits: the most that it is willing to pay in one round.

    Raises
    ------
    TermsError
        If a field is of the wrong type or out of its range.
    """

    samples: int
    cost: float
    eagerness: float
    budget: float = inf

    def __post_init__(self) -> None:
        samples = self.samples
        if isinstance(samples, bool) or not isinstance(samples, Integral):
            raise TermsError(f"samples must be an integer, is {samples!r}: report a count")
        if not 0 <= samples <= SAMPLES_MAX:
            raise TermsError(f"samples is {samples}: report a count from 0 to {SAMPLES_MAX}")
        object.__setattr__(self, "samples", int(samples))
        for name, endless in (("cost", True), ("eagerness", False), ("budget", True)):
            number = _real(getattr(self, name), name, TermsError)
            if not (number >= 0 and (endless or isfinite(number))):
                fix = "0 or more, or inf" if endless else "a finite number, 0 or more"
                raise TermsError(f"{name} is {number!r}: report {fix}")
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class Rules:
    """The rules of a market, the same for all its institutions.

    Parameters
    ----------
    mechanism : {"truthful", "paper"}
        Names a selection and a payment: exact and critical, or greedy and marginal (§4).
    distance_weight : float
        λ ≥ 0, credits.
    max_volume_ratio : float
        For buyer i, no seller counts more than this times N_i samples (§8). `inf`: no cap.
    selection : {"greedy", "skip", "exact"}, optional
    payment : {"marginal", "critical"}, optional
        Override the mechanism's singly. Once made, both are filled in: `dataclasses.replace` of the
        mechanism alone keeps them.
    node_cap : int
        States that `exact` may visit in one search; past it the row falls back on `skip` (§3).

    Raises
    ------
    RulesError
        If a name is unknown or a number out of its range.
    """

    mechanism: Mechanism = "truthful"
    distance_weight: float = 1.0
    max_volume_ratio: float = 10.0
    selection: Selection | None = None
    payment: Payment | None = None
    node_cap: int = 20_000

    def __post_init__(self) -> None:
        _known("mechanism", self.mechanism, tuple(_MECHANISMS))
        selection, payment = _MECHANISMS[self.mechanism]
        if self.selection is None:
            object.__setattr__(self, "selection", selection)
        if self.payment is None:
            object.__setattr__(self, "payment", payment)
        _known("selection", self.selection, ("greedy", "skip", "exact"))
        _known("payment", self.payment, ("marginal", "critical"))
        weight = _real(self.distance_weight, "distance_weight", RulesError)
        if not (weight >= 0 and isfinite(weight)):
            raise RulesError(f"distance_weight is {weight!r}: set a finite number, 0 or more")
        ratio = _real(self.max_volume_ratio, "max_volume_ratio", RulesError)
        if not ratio > 0:
            raise RulesError(f"max_volume_ratio is {ratio!r}: set a number above 0, or inf")
        cap = self.node_cap
        if isinstance(cap, bool) or not isinstance(cap, Integral) or cap < 1:
            raise RulesError(f"node_cap is {cap!r}: set an integer, 1 or more")
        object.__setattr__(self, "distance_weight", weight)
        object.__setattr__(self, "max_volume_ratio", ratio)
        object.__setattr__(self, "node_cap", int(cap))


def _real(value: object, name: str, error: type[ValueError]) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise error(f"{name} must be a number, is {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise error(f"{name} is {value!r}: too large for float64") from None


def _known(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RulesError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
