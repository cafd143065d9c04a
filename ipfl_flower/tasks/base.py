"""What a task is: a seeded model, one institution's data, a loss and an accuracy."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

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
        What ``[task] name`` in an institution.toml calls it.
    seed
        Seed of the split, and with ``institution`` and the round of the training batches.
    institution
        Number of the slice.
    """

    name: ClassVar[str]
    seed: int
    institution: int

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """Build the untrained model: the same seed gives the same weights everywhere."""

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
