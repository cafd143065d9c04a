"""What a method is: it asks institutions to train and to judge, and decides what each is left with.

A method sees models as flat vectors and institutions by their position, 0 … m-1. Data stays behind
`Sites`, as it stays with institutions.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]  # (D,): a model's shared part
Matrix: TypeAlias = NDArray[np.float32]  # (m, D)


@dataclass(frozen=True)
class Order:
    """What one institution is asked to train.

    Attributes
    ----------
    start
        The model that training starts from, (D,).
    centre
        The prox-centre θ̄, (D,); None: the local loss alone.
    coefficient
        κ ≥ 0 of κ ‖θ − θ̄‖².
    """

    start: Vector
    centre: Vector | None = None
    coefficient: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """How a model does on an institution's own data: accuracy in [0, 1], mean loss."""

    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    test_loss: float


class Sites(Protocol):
    """The institutions of an experiment, as a method sees them.

    Attributes
    ----------
    samples
        N_i, training samples, int64 (m,).
    initial
        θ⁰, (D,).
    """

    samples: NDArray[np.int64]
    initial: Vector

    def train(self, number: int, orders: Sequence[Order], *, sent: bool = True) -> Matrix:
        """Let every institution train for one round's steps; return the models, (m, D).

        Batches depend on institution and round `number` alone: all methods draw the same. An
        attacker alters what is `sent`, and its own model stays what it trained: a start, or a model
        to be judged, that equals what it sent means its own. A model that isn't sent is for nobody
        but the institution itself, and is never altered.
        """
        ...

    def judge(self, models: Sequence[Sequence[Vector]]) -> list[list[Judgement]]:
        """Let institution i judge each of ``models[i]`` on its own data, in that order."""
        ...


@dataclass(frozen=True)
class Played:
    """What a round of a method left.

    Attributes
    ----------
    models
        What each institution would use from now on, and is judged by, (m, D).
    trained
        What each institution sent, (m, D): distances and economics are computed from it.
    imports
        a_ij, bool (m, m): whose model i's was made with. The diagonal is False.
    """

    models: Matrix
    trained: Matrix
    imports: NDArray[np.bool_]


@dataclass(frozen=True)
class NoOptions:
    """Of a method that has nothing to set."""


class Method(ABC):
    """One method, on one set of institutions; keeps what it must remember between rounds.

    Parameters
    ----------
    sites
        The institutions.
    options
        An `options_type`; None: its defaults.

    Attributes
    ----------
    name
        In reports and on the command line.
    source
        The paper that defines it.
    local_trainings
        How often each institution trains in a round (2 for methods with a second model): the same
        budget of steps a training, said in the report where it isn't 1.
    options_type
        The frozen dataclass of what can be set, its defaults the authors' where they gave any.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    local_trainings: ClassVar[int] = 1
    options_type: ClassVar[type[Any]] = NoOptions

    def __init__(self, sites: Sites, options: Any = None) -> None:
        self.sites = sites
        self.options = self.options_type() if options is None else options

    @abstractmethod
    def play(self, number: int) -> Played:
        """Play round `number` ≥ 0; rounds come in order, once each."""
