"""Tuned methods: each with the value of its main knob that validation data chooses."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from ipfl_flower.experiment.definition import ExperimentError, Setting
from ipfl_flower.experiment.methods import METHODS
from ipfl_flower.experiment.oracle import Oracle
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import (
    Bars,
    Finding,
    Number,
    Table,
    deviation,
    mean,
    signed,
    spread,
    unplayed,
)
from ipfl_flower.experiment.studies.gates import DIRICHLET, IID, MARKET, PRIVATE
from ipfl_flower.experiment.studies.tasks import compared
from ipfl_flower.experiment.studies.utility import OURS
from ipfl_flower.experiment.studies.varying import (
    KNOBS,
    QUICK,
    Candidate,
    Grid,
    candidates_of,
    choose,
    varied,
)
from ipfl_flower.experiment.studies.verdicts import verdict
from ipfl_flower.tasks import TaskDataError, TaskError

SETTINGS: Final = (MARKET, IID, PRIVATE, DIRICHLET)
"""Of small models: the CNN of `fashion_rotations` would take as long as five of them."""
SETTINGS_QUICK: Final = (MARKET, IID)
"""When quick; with `--rounds 20` they are those of a full run."""
PLAYED: Final = (OURS, *METHODS, Oracle.name)
NO_KNOB: Final[Grid] = {"–": {}}

ASKED: Final = (
    "Elsewhere methods have their authors' defaults, and the market a λ that was chosen on data "
    "such as this. Here models are cheap (c = .05, which decides nothing in other methods), and "
    "every method that has a main knob, the market included, is played over a small grid of it "
    "that has the default. On each seed the value is chosen by the mean validation accuracy of "
    "honest institutions alone, and test accuracy is reported at that value. So is the model: the "
    "method's own, or, by each institution's validation data, the better of it and the one it "
    "trained. As *better* never does worse on validation data, it is what counts but where both "
    "do alike: of equals the default goes before other values, and the method's own model before "
    "the better one. Other than in the main table, a rival isn't given the column with the higher "
    "test accuracy. The default's accuracy has its model chosen likewise. *oracle* knows the "
    "hidden groups and is no competitor."
)


@dataclass(frozen=True)
class Tuned:
    """A method on a setting: what each seed could choose from, and what failed.

    Attributes
    ----------
    setting, method : str
    candidates : list of list of Candidate
        By seed, defaults first; of a value that failed there are none.
    failed : list of str
        Value and reason of each failure.
    """

    setting: str
    method: str
    candidates: list[list[Candidate]]
    failed: list[str]

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.candidates)

    @property
    def chosen(self) -> list[Candidate | None]:
        """What each seed's validation data chooses; None: everything failed."""
        return [choose(found) for found in self.candidates]

    @property
    def default(self) -> list[Candidate | None]:
        """The same of the default alone."""
        return [choose([one for one in found if one.default]) for found in self.candidates]

    @property
    def whole(self) -> bool:
        """Whether there is something to choose on every seed."""
        return all(self.candidates)

    @property
    def accuracy(self) -> float:
        """Mean test accuracy of what was chosen, in [0, 1]; NaN where a seed has nothing."""
        found = mean(tests(self.chosen))
        return float("nan") if found is None else found

    @property
    def better(self) -> float:
        """The same: the better model is among what is chosen from."""
        return self.accuracy

    @property
    def deviation(self) -> float:
        """Its standard deviation over seeds, 0 of one seed."""
        return deviation(tests(self.chosen)) or 0.0

    @property
    def gained(self) -> Number:
        """By what share tuning raised the test accuracy; None where either failed on a seed."""
        plain = mean(tests(self.default))
        return self.accuracy - plain if self.whole and plain is not None else None


def tuning(
    bench: Bench, settings: Sequence[str] | None = None, knobs: Mapping[str, Grid] = KNOBS
) -> Finding:
    """Play every method over the grid of its main knob; choose by validation data alone.

    Parameters
    ----------
    bench : Bench
    settings : sequence of str, optional
        By name; without them those that the bench names, or small ones.
    knobs : mapping of str to Grid
        By method; others are played once.

    Raises
    ------
    ExperimentError
        A setting isn't known, or can't be made.
    """
    found: dict[str, list[Tuned]] = {}
    missing: dict[str, str] = {}
    for name in settings or bench.named or (SETTINGS_QUICK if bench.quick else SETTINGS):
        try:
            made = [build(name, choice) for choice in bench.choices()]
            found[name] = [_tuned(bench, made, method, knobs) for method in PLAYED]
        except ExperimentError as error:
            if not isinstance(error.__cause__, TaskDataError):
                raise
            missing[name] = str(error)
    everything = [one for mine in found.values() for one in mine]
    # What isn't whole is said to have failed, and compared with nothing.
    whole = {name: [one for one in mine if one.whole] for name, mine in found.items()}
    failed = dict.fromkeys(f"`{one.method}`" for one in everything if one.failed)
    left_out, why = unplayed(missing)
    return Finding(
        name="tuning",
        title="Every method tuned",
        asked=ASKED,
        said=[
            *(
                f"`{name}`: {verdict(mine, named='tuned iPFL')}"
                for name, mine in whole.items()
                if mine
            ),
            *([f"**Failed** at a value: {', '.join(failed)}."] if failed else []),
            *left_out,
        ],
        tables=[
            compared(
                whole,
                "Mean test accuracy, tuned, percent",
                "Bold: the best of the tuned, oracle aside. ± is the standard deviation over "
                "seeds; –: failed. Beside the defaults in the tables below.",
            ),
            *(_table(name, mine) for name, mine in found.items()),
            _grids(bench, knobs),
        ],
        charts=[_bars(name, mine) for name, mine in whole.items()],
        data={
            "tuned": [
                asdict(one)
                | {
                    "chosen": [choice and asdict(choice) for choice in one.chosen],
                    "default": [choice and asdict(choice) for choice in one.default],
                }
                for one in everything
            ]
        },
        details={
            "What tuning brings": [_gain(everything, method) for method in knobs if everything],
            "What failed": [
                f"`{one.setting}`: `{one.method}` **failed** at {failure}"
                for one in everything
                for failure in one.failed
            ],
            **why,
        },
    )


def _tuned(
    bench: Bench, settings: Sequence[Setting], method: str, knobs: Mapping[str, Grid]
) -> Tuned:
    """Play a method at every value on a setting, a seed each; the market with cheap models."""
    if method == OURS:
        settings = [dataclasses.replace(setting, economics="cheap") for setting in settings]
    values = _values(bench, knobs.get(method, NO_KNOB))
    candidates: list[list[Candidate]] = []
    failed = []
    for setting in settings:
        mine: list[Candidate] = []
        for value, changes in values.items():
            try:
                record = bench.play(varied(setting, method, changes), method)
            except ExperimentError as error:
                if isinstance(error.__cause__, (TaskError, TaskDataError)):
                    raise  # The data's fault, not the method's.
                failed.append(f"{value}: {error}")
            else:
                mine += candidates_of(record, value, default=not changes)
        candidates.append(mine)
    return Tuned(settings[0].name, method, candidates, failed)


def _values(bench: Bench, grid: Grid) -> Grid:
    return dict(islice(grid.items(), QUICK)) if bench.quick else grid


def tests(chosen: Sequence[Candidate | None]) -> list[Number]:
    """Return test accuracies by seed; None where there is nothing."""
    return [None if one is None else one.test for one in chosen]


def _gain(everything: Sequence[Tuned], method: str) -> str:
    """Say what a method gained by tuning, over all settings."""
    gains = {
        one.setting: 100 * one.gained
        for one in everything
        if one.method == method and one.gained is not None
    }
    if not gains:
        return f"`{method}`: what tuning brings isn't known."
    if not any(gains.values()):
        return f"`{method}` gains nothing by tuning on any of {len(gains)} settings."
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    return (
        f"`{method}`: tuning brings {signed(mean(gains.values()), 1)} points on average over "
        f"{len(gains)} settings, from {signed(gains[least], 1)} ({least}) to "
        f"{signed(gains[most], 1)} ({most})."
    )


def _table(name: str, mine: Sequence[Tuned]) -> Table:
    best = max((one.accuracy for one in mine if one.whole and one.method != Oracle.name), default=0)
    return Table(
        name,
        ("method", "tuned %", "default %", "gained", "chosen, by seed", "model, by seed"),
        [
            [
                one.method,
                _accuracy(one.chosen, bold=one.method != Oracle.name and one.accuracy == best),
                _accuracy(one.default),
                signed(None if one.gained is None else 100 * one.gained, 1),
                "; ".join(_named(choice) for choice in one.chosen),
                "; ".join("–" if choice is None else choice.model for choice in one.chosen),
            ]
            for one in mine
        ],
        "Gained: points of test accuracy over the default's, which validation data may get wrong.",
    )


def _accuracy(chosen: Sequence[Candidate | None], *, bold: bool = False) -> str:
    if None in chosen:
        return "**failed**"
    text = spread(tests(chosen), scale=100.0)
    return f"**{text}**" if bold else text


def _named(one: Candidate | None) -> str:
    if one is None:
        return "failed"
    return one.value + (" (default)" if one.default and one.value not in NO_KNOB else "")


def _grids(bench: Bench, knobs: Mapping[str, Grid]) -> Table:
    return Table(
        "What is tuned",
        ("method", "values"),
        [
            [
                method,
                "; ".join(
                    value + ("" if changes else " (default)")
                    for value, changes in _values(bench, grid).items()
                ),
            ]
            for method, grid in knobs.items()
        ],
        f"Without a knob: {', '.join(method for method in PLAYED if method not in knobs)}. "
        "`ipfl-paper` is the paper's recipe with the paper's λ, and isn't played.",
    )


def _bars(name: str, mine: Sequence[Tuned]) -> Bars:
    def bar(chosen: Sequence[Candidate | None]) -> tuple[float, Number]:
        found = [None if test is None else 100 * test for test in tests(chosen)]
        middle = mean(found)
        return (float("nan") if middle is None else middle), deviation(found)

    return Bars(
        f"tuning-{name}",
        f"{name}: tuned",
        "Mean test accuracy at the value that validation data chooses, and at the default",
        {one.method: {"tuned": bar(one.chosen), "default": bar(one.default)} for one in mine},
        unit="%",
    )
