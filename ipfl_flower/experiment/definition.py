"""What an experiment is: who takes part with which data, how they train, and what they trade for.

A setting is a value: everything that decides its outcome is in it, and results are cached by it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from ipfl_flower.trainer.proximal import Optimiser

Role: TypeAlias = Literal["trader", "buyer", "seller", "noise", "attacker"]
Economics: TypeAlias = Literal["paper", "cheap"]

VALUE: Final = 10.0
"""V ≈ 10 credits: what all data in the world is worth to an institution of the mean size."""

COST: Final[Mapping[Economics, float]] = {"paper": 1.0, "cheap": 0.05}
"""c, credits. At the paper's, a buyer among equals stops after two or three sellers; where it is
small, distance and volume decide."""

DISHONEST: Final = frozenset({"noise", "attacker"})
"""Roles whose models are worth nothing to anybody: no mean counts them."""


class ExperimentError(RuntimeError):
    """An experiment can't be played; the message names the setting, the method and the fix."""


@dataclass(frozen=True)
class Seat:
    """One institution of a setting.

    Attributes
    ----------
    name : str
    task : mapping
        Its ``[task]`` table.
    group : int or None
        The hidden group that it belongs to: no method but the oracle is told.
    role : {"trader", "buyer", "seller", "noise", "attacker"}
        What tables call it; it follows from the rest, and decides nothing but who is counted.
    cost : float or None
        c, credits; None: as the setting's economics say.
    eagerness : float or None
        K; None: the same for everyone, V = 10 credits at the mean size of the honest ones.
    budget : float
        B, credits.
    exaggerates : mapping of str to float
        What it reports over the truth, by field of `market.Terms`: ``{"samples": 2.0}``.
    random_labels : bool
        Whether its labels are permuted among its samples, in each of the three parts: its model is
        noise.
    attack : str or None
        What is sent in place of its model, see `attacks.ATTACKS`.
    """

    name: str
    task: Mapping[str, Any]
    group: int | None = None
    role: Role = "trader"
    cost: float | None = None
    eagerness: float | None = None
    budget: float = inf
    exaggerates: Mapping[str, float] = field(default_factory=dict)
    random_labels: bool = False
    attack: str | None = None


@dataclass(frozen=True)
class Setting:
    """A task, cut into institutions that train and trade on given terms.

    Attributes
    ----------
    name : str
        On the command line and in reports.
    title : str
        A line for people.
    seats : tuple of Seat
        The institutions, in the order of everything that is by institution.
    sgd : Sgd or AdamW
        How each trains in a round.
    rounds : int
    seed : int
        Of θ⁰; the tasks' options carry it to splits and batches.
    economics : {"paper", "cheap"}
    data : str
        What data it was: the paper's own, or which stand-in.
    stand_in : bool
        Whether the data is another than the name says.
    market : mapping
        By name of a preset of `Settings`: what ``market.toml`` says beside it, such as
        ``{"paper": {"distance-weight": 2.0, "eta": 5.0}}``.
    options : mapping
        By name of a method: what differs from its authors' defaults.
    """

    name: str
    title: str
    seats: tuple[Seat, ...]
    sgd: Optimiser
    rounds: int
    seed: int
    economics: Economics
    data: str
    stand_in: bool = False
    market: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What the command line leaves to a setting.

    Attributes
    ----------
    seed : int
    quick : bool
        Fewer rounds, institutions or samples: whether it works, not how well.
    data_dir : Path or None
        Where the data lies; None: where the task looks by itself.
    dataset : str or None
        What is played on in its place: a name on Hugging Face's hub, or the absolute path of a
        folder of parquet files.
    rounds : int or None
        How many are played; None: as many as the setting says.
    """

    seed: int
    quick: bool = False
    data_dir: Path | None = None
    dataset: str | None = None
    rounds: int | None = None


Build: TypeAlias = Callable[[Choice], Setting]
