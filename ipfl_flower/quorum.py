"""Whether a round has enough replies to be settled, and if not, why."""

from collections.abc import Mapping
from dataclasses import dataclass

from ipfl_flower.ledger import Report, RoundState

SHORT = "the quorum is"
"""What the reason has in it with which a round is abandoned for a :class:`Shortfall`."""


@dataclass(frozen=True)
class Shortfall:
    """Why a round is below its quorum.

    Attributes
    ----------
    reason : str
        One line that names everyone who is missing, and why.
    silence : bool
        Whether it would be below without those who left, too.
    """

    reason: str
    silence: bool


def short_of_quorum(
    state: RoundState, reports: Mapping[int, Report], names: Mapping[int, str], quorum: int
) -> Shortfall | None:
    """Return why a round can't be settled, or None if it can.

    Parameters
    ----------
    state : RoundState
        Whom the round asked, and who failed.
    reports : mapping of int to Report
        By institution id.
    names : mapping of int to str
        Of the institutions, by id.
    quorum : int
        Usable models without which a round is not settled.
    """
    left = [i for i, report in reports.items() if report.leaving]
    usable = len(reports) - len(left)
    if usable >= quorum:
        return None
    silent = [i for i in state.asked if i not in reports and i not in state.failed]
    reason = (
        f"round {state.number}: {usable} of {len(state.asked)} institutions replied with a usable "
        f"model, {SHORT} {quorum}"
        + "".join(f"; {_name(i, names)}: {why}" for i, why in state.failed.items())
        + _listed("; no answer within the deadline: ", silent, names)
        + _listed("; left: ", left, names)
    )
    return Shortfall(reason, silence=usable + len(left) < quorum)


def _listed(what: str, institutions: list[int], names: Mapping[int, str]) -> str:
    return what + ", ".join(_name(i, names) for i in institutions) if institutions else ""


def _name(institution: int, names: Mapping[int, str]) -> str:
    return names.get(institution, f"institution {institution}")
