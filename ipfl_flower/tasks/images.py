"""Image classification: one institution's slice of a labelled image set.

The whole set is cut into as many parts as there are institutions, with one seed; institution i
takes part i. So each institution finds its own slice from its own options, whatever sizes the
others choose.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from ipfl_flower.tasks import splits
from ipfl_flower.tasks.base import LocalData, Split, Task, seeded
from ipfl_flower.tasks.errors import TaskError
from ipfl_flower.tasks.slices import ANY_PART, PartOptions, PartTask

CLASSES = 10

# Which options belong to which split: one that would be ignored is a mistake to point out.
_OPTIONS_OF = {
    "clusters": {"groups", "cluster_by"},
    "dirichlet": {"beta"},
    "skew": {"classes"},
}


class SliceOptions(PartOptions):
    """Which samples of a data set an institution holds: the ``[task]`` table without its name.

    Attributes
    ----------
    split
        "clusters": parts are alike, but groups of institutions see the data differently;
        "dirichlet": each class shared out by Dirichlet proportions; "skew": a few classes each.
    groups
        Of "clusters": institution i belongs to hidden group i % groups. 1 is an even split.
    cluster_by
        Of "clusters": groups differ by what they call the classes, by quarter turns, or by their
        share of each class, drawn from a Dirichlet distribution.
    beta
        Concentration of "dirichlet", or of "clusters" by it.
    classes
        Of "skew": classes of each institution.
    total
        Samples of the whole set that are shared out, drawn at random; default: all of them.
    """

    split: Literal["clusters", "dirichlet", "skew"]
    groups: int = Field(default=1, ge=1)
    cluster_by: Literal["permutation", "rotation", "dirichlet"] = "permutation"
    beta: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    classes: int = Field(default=2, ge=1)
    total: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "SliceOptions":
        if self.cluster_by == "rotation" and self.groups > 4:
            raise ValueError(f"groups must be ≤ 4 by rotation, is {self.groups}")
        for split, names in _OPTIONS_OF.items():
            strays = sorted(names & self.model_fields_set)
            if self.split == "clusters" and self.cluster_by == "dirichlet":
                strays = [name for name in strays if name != "beta"]
            if split != self.split and strays:
                raise ValueError(f'{strays[0]} is for split = "{split}" alone: remove it')
        return self


class Classifier(Task):
    """A task whose model answers with a logit for each class."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (n, classes)."""
        return nn.functional.cross_entropy(outputs, labels)

    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the share of samples whose largest logit is the label's."""
        return int((outputs.argmax(dim=1) == labels).sum()) / len(labels)


class ImageTask(Classifier, PartTask):
    """A slice of a set of labelled images.

    Parameters
    ----------
    options
        Which slice, checked.

    Attributes
    ----------
    class_count
        Number of classes; labels are 0 … class_count - 1.
    """

    options_type: ClassVar[type[SliceOptions]] = SliceOptions
    class_count: ClassVar[int] = CLASSES
    any_slice: ClassVar[Mapping[str, Any]] = {**ANY_PART, "split": "clusters"}
    options: SliceOptions

    @abstractmethod
    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the whole set: images (n, height, width) or (n, height, width, 3), labels (n,)."""

    @abstractmethod
    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Turn images, as :meth:`read` gives them, into what the model takes."""

    def data(self) -> LocalData:
        """Read this institution's slice; see :meth:`Task.data`."""
        return self._data

    @cached_property
    def _data(self) -> LocalData:
        images, labels = self.read()
        share = self.shares(labels)[self.options.institution]
        group = self.options.institution % self.options.groups
        parts = []
        for part in self.options.cut(share, self.name):
            part_images, part_labels = images[part], labels[part]
            if self.options.cluster_by == "rotation":
                part_images = splits.quarter_turns(part_images, group)
            elif self.options.cluster_by == "permutation":
                rng = np.random.default_rng([self.seed, 1])
                names = splits.label_permutations(self.options.groups, self.class_count, rng)
                part_labels = names[group][part_labels]
            parts.append(Split(self.inputs(part_images), torch.from_numpy(part_labels)))
        return LocalData(*parts)

    def shares(self, labels: NDArray[np.int64]) -> list[splits.Indices]:
        """Cut the whole set, whose labels are (n,), into the samples of each institution."""
        options = self.options
        rng = np.random.default_rng([self.seed, 0])
        used = np.arange(len(labels))
        if options.total is not None:
            if options.total > len(labels):
                raise TaskError(
                    f"task {self.name}: total must be ≤ {len(labels)}, the samples of its data, "
                    f"is {options.total}"
                )
            used = np.sort(np.random.default_rng([self.seed, 3]).permutation(used)[: options.total])
        return [used[share] for share in self.split(used, labels[used], rng)]

    def split(
        self,
        used: splits.Indices,  # noqa: ARG002  # for tasks that know more of a sample than its class
        labels: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> list[splits.Indices]:
        """Share the used samples out.

        Parameters
        ----------
        used
            Their numbers in the whole set, shape (n,).
        labels
            Their classes, shape (n,).
        rng
            Source of all randomness.

        Returns
        -------
        list of int64 arrays
            For each institution the positions of its samples in ``used``.
        """
        options = self.options
        if options.split == "dirichlet":
            return splits.dirichlet(labels, options.institutions, options.beta, rng)
        if options.split == "skew":
            return splits.skew(labels, options.institutions, options.classes, rng)
        if options.cluster_by == "dirichlet":
            return splits.dirichlet_groups(
                labels, options.institutions, options.groups, options.beta, rng
            )
        return splits.even(len(labels), options.institutions, rng)


def mlp(inputs: int, hidden: int, classes: int, *, seed: int) -> nn.Module:
    """Build a perceptron with one hidden layer of ReLUs."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
