"""From records to the rows that tables show: means over seeds, of honest institutions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ipfl_flower.experiment.record import Record, summary


@dataclass(frozen=True)
class Row:
    """One method on one setting, over its seeds.

    Attributes
    ----------
    setting, method : str
    seeds : int
        How many.
    accuracy, deviation : float
        Mean test accuracy in [0, 1], and its standard deviation over seeds (0 of one seed), of the
        model that the method leaves, as its authors define it.
    better : float
        The same where each institution takes the better of that model and the one it trained.
    worst : float
        The worst institution's, mean over seeds.
    utility, utility_all : float or None
        Mean over honest institutions, and over all, summed over rounds, credits; None: without
        bound.
    welfare : float or None
        W, mean over all, summed over rounds, credits: what the market maximises.
    own_group, dishonest : float or None
        Shares of the volume bought.
    local_trainings : int
        A round.
    cpu_seconds : float
        Mean.
    """

    setting: str
    method: str
    seeds: int
    accuracy: float
    deviation: float
    better: float
    worst: float
    utility: float | None
    utility_all: float | None
    welfare: float | None
    own_group: float | None
    dishonest: float | None
    local_trainings: int
    cpu_seconds: float


def rows(records: Sequence[Record]) -> list[Row]:
    """Sum records up, in the order in which settings and methods first appear."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["setting"], record["method"]), []).append(record)
    return [_row(*names, group) for names, group in groups.items()]


def percent(value: float | None) -> str:
    """Say a share in percent; "–" where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def credits_(value: float | None) -> str:
    """Say an amount in credits; "–" where there is none."""
    return "–" if value is None else f"{value:.1f}"


def cells(row: Row) -> list[str]:
    """Return the cells of a row, see `HEADINGS`."""
    accuracy = percent(row.accuracy) + (f" ± {100 * row.deviation:.1f}" if row.seeds > 1 else "")
    return [
        row.method + (f" ({row.local_trainings} trainings)" if row.local_trainings > 1 else ""),
        accuracy,
        percent(row.better),
        percent(row.worst),
        credits_(row.utility),
        credits_(row.utility_all),
        credits_(row.welfare),
        percent(row.own_group),
        percent(row.dishonest),
        f"{row.cpu_seconds:.1f}",
    ]


HEADINGS = (
    *("method", "accuracy", "better", "worst", "U honest", "U all", "W"),
    *("own group", "noise", "CPU s"),
)

EXPLAINED = """\
*accuracy* is the mean test accuracy of the honest institutions in percent, at the round that each
one's own validation data chose, of the model that the method leaves, as its authors define it; ± is
the standard deviation over seeds. *better*: where each institution takes, in every round,
the better of that model and the one it trained by its validation data, which is the market's own
rule: compare methods by this column. *worst* is the institution that is worst off.

*U honest* and *U all* are utility, summed over rounds, in credits, averaged over honest
institutions and over all; payments cancel in the mean over all alone. It counts the volume of data
that was bought, and what it cost, not how accurate models became. A method without a market pays
nothing: its utility is what its graph would bring and cost by the same formulas. *W* is welfare,
over all institutions: U that also prices the distance between buyer and seller, at the weight λ of
the market whose books they are; it is what the market maximises. *own group* and
*noise* are shares of the volume that honest institutions imported: from their own hidden group, and
from those who send nothing of worth.
"""


def _row(setting: str, method: str, records: Sequence[Record]) -> Row:
    figures = [summary(record) for record in records]

    def values(name: str) -> list[float]:
        return [value for item in figures if (value := item[name]) is not None]

    def mean(name: str) -> float | None:
        return _mean(values(name)) if len(values(name)) == len(figures) else None

    accuracies = values("accuracy")
    return Row(
        setting=setting,
        method=method,
        seeds=len(records),
        accuracy=_mean(accuracies),
        deviation=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0,
        better=_mean(values("better")),
        worst=_mean(values("worst")),
        utility=mean("utility"),
        utility_all=mean("utility_all"),
        welfare=mean("welfare"),
        own_group=mean("own_group"),
        dishonest=mean("dishonest"),
        local_trainings=int(records[0]["local_trainings"]),
        cpu_seconds=_mean(values("cpu_seconds")),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
