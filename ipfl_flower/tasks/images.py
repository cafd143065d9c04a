"""Image classification: one institution's slice of a labelled image set.

The whole set is cut into as many parts as there are institutions, with one seed; institution i
takes part i. So each institution finds its own slice from its own options, whatever sizes the
others choose.
"""

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ipfl_flower.tasks import splits
from ipfl_flower.tasks.base import LocalData, Split, Task, seeded
from ipfl_flower.tasks.errors import TaskError

CLASSES = 10

# Which options belong to which split: one that would be ignored is a mistake to point out.
_OPTIONS_OF = {
    "clusters": {"groups", "cluster_by"},
    "dirichlet": {"beta"},
    "skew": {"classes"},
}


class SliceOptions(BaseModel):
    """Which samples of a data set an institution holds: the ``[task]`` table without its name.

    Attributes
    ----------
    split
        "clusters": parts are alike, but groups of institutions see the data differently;
        "dirichlet": each class shared out by Dirichlet proportions; "skew": a few classes each.
    institution, institutions
        Number of this slice, and how many there are.
    groups
        Of "clusters": institution i belongs to hidden group i % groups. 1 is an even split.
    cluster_by
        Of "clusters": groups differ by what they call the classes, or by quarter turns.
    beta
        Of "dirichlet": concentration.
    classes
        Of "skew": classes of each institution.
    samples, validation, test
        Sizes of the three parts. Of ``samples`` and ``test`` one can be left out: it takes the
        rest of the slice.
    seed
        Seed of the split; the same for all institutions, or their slices overlap.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    split: Literal["clusters", "dirichlet", "skew"]
    institution: int = Field(ge=0)
    institutions: int = Field(ge=1)
    groups: int = Field(default=1, ge=1)
    cluster_by: Literal["permutation", "rotation"] = "permutation"
    beta: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    classes: int = Field(default=2, ge=1, le=CLASSES)
    samples: int | None = Field(default=None, ge=1)
    validation: int = Field(default=40, ge=1)
    test: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "SliceOptions":
        if self.institution >= self.institutions:
            raise ValueError(
                f"institution must be < institutions = {self.institutions}, is {self.institution}"
            )
        if self.samples is None and self.test is None:
            raise ValueError("give samples or test: only one of them can take the rest")
        if self.cluster_by == "rotation" and self.groups > 4:
            raise ValueError(f"groups must be ≤ 4 by rotation, is {self.groups}")
        for split, names in _OPTIONS_OF.items():
            strays = sorted(names & self.model_fields_set)
            if split != self.split and strays:
                raise ValueError(f'{strays[0]} is for split = "{split}" alone: remove it')
        return self


class ImageTask(Task):
    """A slice of a set of grey images with ten classes.

    Parameters
    ----------
    options
        Which slice, checked.

    Attributes
    ----------
    options_type
        What the ``[task]`` table is checked by.
    """

    options_type: ClassVar[type[SliceOptions]] = SliceOptions

    def __init__(self, options: SliceOptions) -> None:
        self.options = options
        self.seed = options.seed
        self.institution = options.institution

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Make the task of a ``[task]`` table; see :meth:`Task.from_options`."""
        return cls(cls.options_type(**options))

    @abstractmethod
    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the whole set: images (n, height, width) and labels (n,)."""

    @abstractmethod
    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Turn images (n, height, width) into what the model takes."""

    def data(self) -> LocalData:
        """Read this institution's slice; see :meth:`Task.data`."""
        return self._data

    @cached_property
    def _data(self) -> LocalData:
        images, labels = self.read()
        chosen = self._choose(labels)
        group = self.options.institution % self.options.groups
        parts = []
        for part in chosen:
            part_images, part_labels = images[part], labels[part]
            if self.options.split == "clusters" and self.options.cluster_by == "rotation":
                part_images = splits.quarter_turns(part_images, group)
            elif self.options.split == "clusters":
                rng = np.random.default_rng([self.seed, 1])
                names = splits.label_permutations(self.options.groups, CLASSES, rng)
                part_labels = names[group][part_labels]
            parts.append(Split(self.inputs(part_images), torch.from_numpy(part_labels)))
        return LocalData(*parts)

    def _choose(self, labels: NDArray[np.int64]) -> list[splits.Indices]:
        """Return the sample numbers of this institution's train, validation and test data."""
        options = self.options
        rng = np.random.default_rng([self.seed, 0])
        if options.split == "clusters":
            shares = splits.even(len(labels), options.institutions, rng)
        elif options.split == "dirichlet":
            shares = splits.dirichlet(labels, options.institutions, options.beta, rng)
        else:
            shares = splits.skew(labels, options.institutions, options.classes, rng)
        share = np.random.default_rng([self.seed, 2, options.institution]).permutation(
            shares[options.institution]
        )
        # The options leave at most one of the two out: it takes the rest, which may be none.
        train = options.samples or len(share) - options.validation - (options.test or 0)
        test = options.test or len(share) - options.validation - train
        ends = np.cumsum([train, options.validation, test])
        if min(train, test) < 1 or ends[-1] > len(share):
            raise TaskError(
                f"task {self.name}: institution {options.institution}'s slice holds {len(share)} "
                f"samples, too few for samples {options.samples or 'rest'} + validation "
                f"{options.validation} + test {options.test or 'rest'}: lower them or institutions"
            )
        return np.split(share, ends)[:3]

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (n, classes)."""
        return nn.functional.cross_entropy(outputs, labels)

    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the share of samples whose largest logit is the label's."""
        return int((outputs.argmax(dim=1) == labels).sum()) / len(labels)


def mlp(inputs: int, hidden: int, classes: int, *, seed: int) -> nn.Module:
    """Build a perceptron with one hidden layer of ReLUs."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
