"""Which part of a data set an institution holds, and how it is cut into three."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ipfl_flower.tasks.base import Task
from ipfl_flower.tasks.errors import TaskError
from ipfl_flower.tasks.splits import Indices

_SHARE = 0.2  # of a slice that is cut in proportion: validation and test data each


class PartOptions(BaseModel):
    """Number of the slice and sizes of its three parts.

    Attributes
    ----------
    institution, institutions
        Number of this slice, and how many there are.
    samples, validation, test
        Sizes of the three parts. Of ``samples`` and ``test`` one can be left out: it takes the
        rest of the slice.
    proportional
        For slices of very different sizes: validation and test data are a fifth of the slice each,
        and training data is the rest of it, ``samples`` at most.
    test_min
        With proportional: where a fifth is less, test data is so much, as far as it leaves as much
        training data.
    seed
        Seed of the split; the same for all institutions, or their slices overlap.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    institution: int = Field(ge=0)
    institutions: int = Field(ge=1)
    samples: int | None = Field(default=None, ge=1)
    validation: int = Field(default=40, ge=1)
    test: int | None = Field(default=None, ge=1)
    proportional: bool = False
    test_min: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _sizes(self) -> "PartOptions":
        if self.institution >= self.institutions:
            raise ValueError(
                f"institution must be < institutions = {self.institutions}, is {self.institution}"
            )
        if self.test_min is not None and not self.proportional:
            raise ValueError("test_min is for proportional = true alone: give test")
        if self.proportional:
            strays = sorted({"validation", "test"} & self.model_fields_set)
            if strays:
                raise ValueError(f"{strays[0]} is decided by proportional = true: remove one")
        elif self.samples is None and self.test is None:
            raise ValueError("give samples or test: only one of them can take the rest")
        return self

    def cut(self, share: Indices, task: str) -> list[Indices]:
        """Cut a slice at random into training, validation and test data.

        Parameters
        ----------
        share
            Sample numbers of the slice.
        task
            Its name, for the message.

        Returns
        -------
        list of three int64 arrays
            No number is in two of them. The order depends on seed and institution alone.

        Raises
        ------
        TaskError
            The slice is too small for the sizes asked for.
        """
        shuffled = np.random.default_rng([self.seed, 2, self.institution]).permutation(share)
        train, validation, test = self._counts(len(share))
        ends = np.cumsum([train, validation, test])
        if min(train, validation, test) < 1 or ends[-1] > len(share):
            sizes = (
                "a proportional cut"
                if self.proportional
                else f"samples {self.samples or 'rest'} + validation {validation} "
                f"+ test {self.test or 'rest'}"
            )
            raise TaskError(
                f"task {task}: institution {self.institution}'s slice holds {len(share)} "
                f"samples, too few for {sizes}: lower them or institutions"
            )
        return np.split(shuffled, ends)[:3]

    def _counts(self, size: int) -> tuple[int, int, int]:
        if self.proportional:
            held_out = max(int(_SHARE * size), 1)
            left = size - held_out
            test = max(held_out, min(self.test_min or 0, left // 2))
            return min(self.samples or left - test, left - test), held_out, test
        # The options leave at most one of the two out: it takes the rest, which may be none.
        train = self.samples or size - self.validation - (self.test or 0)
        return train, self.validation, self.test or size - self.validation - train


# What every such task wants to know of a slice, and a model doesn't depend on.
ANY_PART: Mapping[str, Any] = {"institution": 0, "institutions": 1, "samples": 1}


class PartTask(Task):
    """A task whose data is a part that :class:`PartOptions` describes.

    Parameters
    ----------
    options
        Checked options.

    Attributes
    ----------
    options_type
        What the ``[task]`` table is checked by.
    """

    options_type: ClassVar[type[PartOptions]] = PartOptions
    any_slice = ANY_PART
    options: PartOptions

    def __init__(self, options: PartOptions) -> None:
        self.options = options
        self.seed = options.seed
        self.institution = options.institution

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Make the task of a ``[task]`` table; see :meth:`Task.from_options`."""
        return cls(cls.options_type(**options))
