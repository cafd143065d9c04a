"""Utility at both economics: of the market as it was played, of other methods by their graph.

What a method without a market imports doesn't depend on what models cost: its graph is charged the
other cost afterwards. A market buys otherwise at another cost, so that it must be played there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Final, Literal

import numpy as np

from ipfl_flower.experiment.definition import COST, Economics
from ipfl_flower.experiment.oracle import Oracle
from ipfl_flower.experiment.play import PRESETS
from ipfl_flower.experiment.record import Record, summary
from ipfl_flower.experiment.studies.economies import bought
from ipfl_flower.experiment.studies.finding import (
    Number,
    Table,
    figure,
    mean,
    percent,
    signed,
    spread,
)
from ipfl_flower.market import Rules, Terms
from ipfl_flower.market.clearing import utilities
from ipfl_flower.market.gain import Floats
from ipfl_flower.market.offers import make_offers

OURS: Final = "ipfl"
LEVEL: Final = 0.05
"""Credits: utilities that differ by less are written alike."""


@dataclass(frozen=True)
class Account:
    """What a method comes to on a setting at one economics.

    Attributes
    ----------
    method : str
    records : sequence of Record
        One a seed.
    utilities, welfares : sequence of float or None
        By record: U and W, means over all institutions, summed over rounds, credits; None: without
        bound.
    """

    method: str
    records: Sequence[Record]
    utilities: Sequence[Number]
    welfares: Sequence[Number]

    @property
    def utility(self) -> float:
        """Mean over seeds, credits; −∞ where it has no bound."""
        found = mean(self.utilities)
        return -inf if found is None else found

    @property
    def accuracy(self) -> float:
        """Mean over seeds, in [0, 1]."""
        return float(np.mean([summary(record)["accuracy"] or 0.0 for record in self.records]))


def accounts(records: Sequence[Record], economics: Economics) -> list[Account]:
    """Return what each method on a setting comes to; without markets that weren't played there.

    Parameters
    ----------
    records : sequence of Record
        Of one setting, markets' at either economics.
    economics : {"paper", "cheap"}
    """
    found = []
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        there = [record for record in mine if record["economics"] == economics]
        used = there or ([] if method in PRESETS else mine)
        if used:
            both = [worth(record, economics) for record in used]
            found.append(Account(method, used, [u for u, _ in both], [w for _, w in both]))
    return found


def worth(record: Record, economics: Economics) -> tuple[Number, Number]:
    """Return U and W of a record's graph, as if models cost what they do at an economics.

    Returns
    -------
    utility, welfare : float or None
        Means over all institutions, summed over rounds, credits; None: without bound.
    """
    sums = summary(record)
    utility, welfare = sums["utility_all"], sums["welfare"]
    if record["economics"] == economics:
        return utility, welfare
    charged = float(np.mean(_charged(record, economics)))
    if not isfinite(charged):
        return None, None
    if utility is None or welfare is None:
        return charged, None
    # Payments cancel, so that U − W is the price of distance, which is what it was.
    return charged, charged - (utility - welfare)


def _charged(record: Record, economics: Economics) -> Floats:
    """Return each institution's utility where nobody pays, float64 (m,); infinite: NaN or −∞."""
    terms = [
        Terms(item["samples"], _cost(item["cost"], record["economics"], economics), 0.0)
        for item in record["institutions"]
    ]
    m = len(terms)
    # Of the offers, costs alone count here: gains are as they were.
    offers = make_offers(terms, np.zeros((m, m)), Rules(), None)
    total = np.zeros(m)
    for played in record["rounds"]:
        imports = np.zeros((m, m), dtype=bool)
        for buyer, sellers in enumerate(played["imports"]):
            imports[buyer, sellers] = True
        gains = np.array(played["gains"], dtype=np.float64)
        total += utilities(offers, imports, gains, np.zeros(m, np.int64))
    return total


def _cost(cost: Number, was: Economics, economics: Economics) -> float:
    """Return c at another economics; a cost that isn't the economics' is the institution's own."""
    if cost is None:
        return inf
    return COST[economics] if cost == COST[was] else cost


def table(by_setting: Mapping[str, Sequence[Record]], economics: Economics) -> Table:
    """Return utilities by setting and method."""
    methods = dict.fromkeys(r["method"] for mine in by_setting.values() for r in mine)
    rows = []
    for name, mine in by_setting.items():
        found = {account.method: account for account in accounts(mine, economics)}
        best = max((a.utility for a in found.values() if a.method != Oracle.name), default=-inf)
        rows.append([name, *(_cell(found.get(method), best) for method in methods)])
    own = [name for name, mine in by_setting.items() if mine[0]["economics"] == economics]
    return Table(
        f"Utility at c = {COST[economics]:g}, credits",
        ("setting", *methods),
        rows,
        "Mean over all institutions, summed over rounds. Bold: the highest, oracle aside. "
        + (f"{', '.join(own)}: the setting's own economics. " if own else "")
        + "At others than its own a setting's market is played anew; what others import doesn't "
        "depend on c, and is charged it.",
    )


def _cell(account: Account | None, best: float) -> str:
    if account is None:
        return "–"
    text = spread(account.utilities)
    return f"**{text}**" if account.utility == best and account.method != Oracle.name else text


def place(
    records: Sequence[Record], economics: Economics
) -> Literal["highest", "but", "below"] | None:
    """Tell whether the market's utility is the highest on a setting; None: not compared.

    Parameters
    ----------
    records : sequence of Record
        Of the setting.
    economics : {"paper", "cheap"}

    Returns
    -------
    {"highest", "but", "below"} or None
        "but": the highest but for the market by another preset.
    """
    ours, others = _compared(records, economics)
    if ours is None or not others:
        return None
    above = {account.method for account in others if account.utility >= ours.utility + LEVEL}
    if not above:
        return "highest"
    return "but" if above <= PRESETS.keys() and len(above) < len(others) else "below"


def verdicts(records: Sequence[Record]) -> list[str]:
    """Say whether the market's utility is the highest on a setting, a line for each economics."""
    return [
        f"c = {COST[economics]:g}: {_said(*_compared(records, economics))}" for economics in COST
    ]


def _compared(
    records: Sequence[Record], economics: Economics
) -> tuple[Account | None, list[Account]]:
    """Return the market, None if it wasn't played, and the others, the highest utility first."""
    found = {account.method: account for account in accounts(records, economics)}
    ours = found.pop(OURS, None)
    found.pop(Oracle.name, None)
    return ours, sorted(found.values(), key=lambda account: -account.utility)


def _said(ours: Account | None, others: Sequence[Account]) -> str:
    if ours is None or not others:
        return "utility isn't compared."
    best = others[0]
    ahead = ours.utility - best.utility
    how = f"{_mean(ours)} against {_mean(best)} of `{best.method}` ({signed(ahead, 1)})"
    if ahead >= LEVEL:
        return f"iPFL's utility is the highest, {how}."
    if ahead > -LEVEL:
        return f"iPFL's utility is level with the highest, {how}."
    return f"iPFL's utility is **not the highest**, {how}. {_why(ours, others)}"


def _why(ours: Account, others: Sequence[Account]) -> str:
    """Say what the others' utility comes from, and whether it is good for anything."""
    best = others[0]
    points = 100 * (best.accuracy - ours.accuracy)
    text = (
        f"`{best.method}` imports {_imports(best)}, and is {figure(abs(points), 1)} points "
        f"{'more' if points > 0 else 'less'} accurate; iPFL imports {_imports(ours)}. "
    )
    if best.method not in PRESETS:
        return (
            f"{text}U counts volume alone: by W, which prices distance, too, iPFL has "
            f"{figure(mean(ours.welfares), 1)} against {figure(mean(best.welfares), 1)}."
        )
    text += f"`{best.method}` has another λ, the price of distance, which U doesn't count."
    rival = next((account for account in others if account.method not in PRESETS), None)
    if rival is None:
        return text
    return f"{text} The highest without a market is {_mean(rival)} of `{rival.method}`."


def _mean(account: Account) -> str:
    return figure(mean(account.utilities), 1)


def _imports(account: Account) -> str:
    count = figure(mean(bought(record) for record in account.records), 1)
    own = mean(record["bought"]["own_group"] for record in account.records)
    groups = "" if own is None else f" ({percent(1 - own, 0)} % of the volume from other groups)"
    return f"{count} models each a round{groups}"
