"""What a task is: a seeded model, one institution's data, a loss and an accuracy."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Split:
    """Samples and their labels, row by row.

    Attributes
    ----------
    inputs
        What the model takes, shape (n, …).
    labels
        What it should answer, shape (n, …).
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> "Split":
        """Return the same samples on ``device``."""
        return Split(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class LocalData:
    """One institution's data: trained on, chosen by, and reported on. They share no sample."""

    train: Split
    validation: Split
    test: Split

    def to(self, device: str) -> "LocalData":
        """Return the same data on ``device``."""
        return LocalData(self.train.to(device), self.validation.to(device), self.test.to(device))


class Task(ABC):
    """A data set, the slice of it that one institution holds, and the model that learns it.

    Attributes
    ----------
    name
        What error messages call it, and ``[task] name`` of an institution.toml if it is built in.
    seed
        Seed of the split, and with ``institution`` and the round of the training batches.
    institution
        Number of the slice.
    any_slice
        Options that a slice needs and a model doesn't depend on: with them θ⁰ is built where there
        is no institution.
    judged_at_once
        Samples that go through the model together when it is judged, which bounds its memory.
    """

    name: ClassVar[str]
    any_slice: ClassVar[Mapping[str, Any]] = {}
    judged_at_once: ClassVar[int] = 1024
    seed: int
    institution: int

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Make the task that a ``[task]`` table describes.

        Parameters
        ----------
        options
            The table without its name.

        Raises
        ------
        TypeError
            An option is missing or unknown.
        pydantic.ValidationError, TaskError
            An option is wrong.
        """
        return cls(**options)

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """Build the untrained model: the same seed gives the same weights everywhere."""

    def shareable(self, model: nn.Module) -> Iterable[str]:
        """Name what of the model is traded; by default every floating-point entry.

        What is named travels, is averaged into prox-centres and is held near them. The rest never
        leaves the institution, which keeps it over restarts as far as training changes it.

        Parameters
        ----------
        model
            As :meth:`build_model` gives it.

        Returns
        -------
        iterable of str
            Names of floating-point entries of its state_dict, the same at all institutions.
        """
        return [name for name, entry in model.state_dict().items() if entry.is_floating_point()]

    @abstractmethod
    def data(self) -> LocalData:
        """Read this institution's data, on the CPU: the same options give the same samples.

        Raises
        ------
        TaskDataError
            The data is missing or damaged.
        TaskError
            The slice holds fewer samples than the options ask for.
        """

    def source(self) -> str:
        """Say in a few words which data :meth:`data` reads, for reports.

        Raises
        ------
        TaskDataError
            The data is missing.
        """
        return self.name

    def stand_in(self) -> bool:
        """Tell whether that is other data than the task is named after, or a part of it.

        Raises
        ------
        TaskDataError
            The data is missing.
        """
        return False

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, a differentiable scalar."""

    @abstractmethod
    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the share of a batch that is answered right, in [0, 1]."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from ``seed`` inside, and leave its global state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
