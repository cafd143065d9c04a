"""Whether the market is as accurate as the best of the others, and where not, what it did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from ipfl_flower.experiment.oracle import Oracle
from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.studies.economies import bought
from ipfl_flower.experiment.studies.finding import Number, figure, mean, percent, signed
from ipfl_flower.experiment.studies.utility import OURS

LEVEL: Final = 0.0005
"""Accuracies that differ by less are written alike."""


class Standing(Protocol):
    """How accurate a method is on a setting, over seeds; see `tables.Row`."""

    @property
    def setting(self) -> str:
        """Its name."""

    @property
    def method(self) -> str:
        """Its name."""

    @property
    def seeds(self) -> int:
        """How many."""

    @property
    def accuracy(self) -> float:
        """Mean test accuracy in [0, 1]."""

    @property
    def deviation(self) -> float:
        """Its standard deviation over seeds, 0 of one."""

    @property
    def better(self) -> float:
        """Mean test accuracy with the better of the method's model and the trained one."""


@dataclass(frozen=True)
class Beside:
    """The market beside the best of the others on a setting.

    A rival counts by the better of its two columns: as its authors define it, or with the market's
    own choice between what it brings and what was trained.
    """

    ours: Standing
    best: Standing

    @classmethod
    def of(cls, mine: Sequence[Standing]) -> "Beside | None":
        """Choose the best of the others; None where there is nothing to compare."""
        rivals = [row for row in mine if row.method not in (OURS, Oracle.name)]
        ours = next((row for row in mine if row.method == OURS), None)
        return None if ours is None or not rivals else cls(ours, max(rivals, key=strongest))

    @property
    def ahead(self) -> float:
        """How much more accurate the market is, in [−1, 1]."""
        return self.ours.accuracy - strongest(self.best)

    @property
    def deviation(self) -> float:
        """The larger of the two standard deviations over seeds; 0 of one seed."""
        return max(self.ours.deviation, self.best.deviation)

    @property
    def band(self) -> float:
        """What a difference must exceed to be one, either way: the deviation, or rounding."""
        return max(LEVEL, self.deviation)

    @property
    def place(self) -> Literal["above", "level", "below"]:
        """Whether the market is above the best of the others, below it, or within the band."""
        if abs(self.ahead) < self.band:
            return "level"
        return "above" if self.ahead > 0 else "below"


def strongest(row: Standing) -> float:
    """Return the higher of a method's two accuracies."""
    return max(row.accuracy, row.better)


def verdict(mine: Sequence[Standing], records: Sequence[Record] = (), named: str = "iPFL") -> str:
    """Say plainly whether the market is best on a setting, and by how much and why it isn't.

    Parameters
    ----------
    mine : sequence of Row
        Of the setting.
    records : sequence of Record
        Of which they are; of none nothing is said of what the market did.
    named : str
        How the market is called.
    """
    beside = Beside.of(mine)
    if beside is None:
        return f"{named} isn't compared."
    ours, best, ahead = beside.ours, beside.best, beside.ahead
    how = (
        f"{percent(ours.accuracy)} % against {percent(strongest(best))} % of `{best.method}` "
        f"({signed(100 * ahead, 1)} points, "
        + ("one seed)" if ours.seeds < 2 else f"standard deviation {percent(beside.deviation)})")
    )
    if beside.place == "above":
        return f"{named} is best: {how}."
    if beside.place == "level":
        within = "" if ours.seeds < 2 else " within one standard deviation"
        return f"{named} is level with the best of the others{within}: {how}."
    alone = next((row for row in mine if row.method == "local"), None)
    over = (
        ""
        if alone is None
        else f" Over training alone: {signed(100 * (ours.accuracy - alone.accuracy), 1)}."
    )
    more = "" if ours.seeds < 2 else ", by more than one standard deviation"
    played = [record for record in records if record["method"] == OURS]
    why = f" {did(played)}" if played else ""
    return f"**{named} is not best**{more}: {how}.{over}{why}"


def did(records: Sequence[Record]) -> str:
    """Say what a market bought, and how good the centres were that it made of that."""
    count = mean(bought(record) for record in records)
    if not count:
        return "It bought nothing: no model brought more than its price, c + λ·d·N_ij/N_i."
    own = mean(record["bought"]["own_group"] for record in records)
    groups = "" if own is None else f", {percent(own)} % of the volume in the buyer's own group"
    centre, trained = centres(records)
    return (
        f"It bought {figure(count, 1)} models each a round{groups}; centres had {percent(centre)} "
        f"% on test data, and the models trained beside them {percent(trained)} %."
    )


def centres(records: Sequence[Record]) -> tuple[Number, Number]:
    """Return the test accuracy of centres, and of what the same institutions trained.

    Means over records, rounds, and honest institutions that were sent a centre.
    """
    pairs = [
        (centre, trained)
        for record in records
        for played in record["rounds"]
        for item, centre, trained in zip(
            record["institutions"],
            played["centre_test_accuracy"],
            played["trained_test_accuracy"],
            strict=True,
        )
        if item["honest"] and centre is not None
    ]
    return mean(centre for centre, _ in pairs), mean(trained for _, trained in pairs)
