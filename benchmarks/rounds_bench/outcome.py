"""What a case measured, and the two tables of all of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rounds_bench.cases import MB, SYSTEMS, TITLES, Case
from rounds_bench.sampler import ROLES
from rounds_bench.sockets import LINKS

FEDAVG_OVER_MARKET_MIN = 2.0
MARKET_OVER_TRANSPORT_MAX = 1.1


@dataclass(frozen=True)
class Outcome:
    """The measurements of one case.

    Attributes
    ----------
    case : Case
    rounds_s : tuple of float
        Seconds of each round but the first.
    fit_s : tuple of float
        Seconds that training took of them, the mean of the institutions; empty: there is none.
    cpu_s, moved : mapping
        CPU seconds by role and bytes by link, a round.
    peaks : mapping
        The most memory of one process by role, bytes, over the whole run.
    replies : tuple of int
        Models that came back in each round.
    """

    case: Case
    rounds_s: tuple[float, ...]
    fit_s: tuple[float, ...]
    cpu_s: Mapping[str, float]
    moved: Mapping[str, float]
    peaks: Mapping[str, int]
    replies: tuple[int, ...]

    @property
    def round_s(self) -> float:
        """The median round."""
        return statistics.median(self.rounds_s)

    def as_json(self) -> dict[str, object]:
        """Return everything as JSON has it."""
        return {
            "system": self.case.system,
            "institutions": self.case.institutions,
            "megabytes": self.case.megabytes,
            "seconds_a_round": self.round_s,
            "rounds_s": list(self.rounds_s),
            "fit_s": list(self.fit_s),
            "cpu_s_a_round": dict(self.cpu_s),
            "bytes_a_round": dict(self.moved),
            "peak_bytes": dict(self.peaks),
            "replies": list(self.replies),
        }


def durations(ends: Sequence[float]) -> tuple[float, ...]:
    """Return how long each round took, of the times that rounds ended: all but the first."""
    return tuple(later - earlier for earlier, later in pairwise(ends))


def ratio(above: float | None, below: float | None) -> float | None:
    """Divide what has been measured."""
    return None if above is None or below is None else above / below


def comparison(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the table of seconds a round, a line for each size, with the two ratios."""
    found = {outcome.case: outcome for outcome in outcomes}
    lines = [
        "                         seconds a round         |      ratios (aim)           | fit, s",
        (
            "institutions      MB   FedAvg   market transport | FedAvg/market market/transp | "
            "FedAvg  market"
        ),
    ]
    for m, mb in dict.fromkeys((o.case.institutions, o.case.megabytes) for o in outcomes):
        row = {system: found.get(Case(system, m, mb)) for system in SYSTEMS}
        seconds = {system: None if o is None else o.round_s for system, o in row.items()}
        fits = {
            system: statistics.median(o.fit_s) if o is not None and o.fit_s else None
            for system, o in row.items()
        }
        gain = ratio(seconds["fedavg"], seconds["market"])
        cost = ratio(seconds["market"], seconds["transport"])
        lines.append(
            f"{m:12} {mb:7g} {_text(seconds['fedavg'], 8)} {_text(seconds['market'], 8)}"
            f" {_text(seconds['transport'], 9)}"
            f" | {_text(gain, 6)} (≥{FEDAVG_OVER_MARKET_MIN:g})"
            f"   {_text(cost, 6)} (≤{MARKET_OVER_TRANSPORT_MAX:g})"
            f" | {_text(fits['fedavg'], 6)}  {_text(fits['market'], 6)}"
        )
    return lines


def resources(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the table of bytes, CPU seconds and memory, a line for each case."""
    lines = [
        (
            f"{'MB a round, by link':>57} | {'CPU s a round, by role':66}"
            " | peak MB of one process, by role"
        ),
        (
            f"{'':30} {' '.join(f'{link:>8}' for link in LINKS)}"
            f" | {'all':>6} {' '.join(f'{role:>9}' for role in ROLES)}"
            f" | {' '.join(f'{role:>9}' for role in ROLES)}"
        ),
    ]
    for outcome in outcomes:
        case = outcome.case
        moved = (outcome.moved.get(link) for link in LINKS)
        cpu = (outcome.cpu_s.get(role) for role in ROLES)
        peaks = (outcome.peaks.get(role) for role in ROLES)
        lines.append(
            f"{TITLES[case.system]:9} {case.institutions:3} × {case.megabytes:<7g} MB    "
            f" {' '.join(_text(ratio(value, MB), 8, 1) for value in moved)}"
            f" | {_text(sum(outcome.cpu_s.values()), 6, 1)}"
            f" {' '.join(_text(value, 9, 1) for value in cpu)}"
            f" | {' '.join(_text(ratio(value, MB), 9, 0) for value in peaks)}"
        )
    return lines


def _text(value: float | None, width: int, digits: int = 2) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.{digits}f}"
