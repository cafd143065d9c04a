"""FEMNIST: 62 characters by the people who wrote them; an institution is a writer.

From LEAF's files, or else characters that are drawn from typefaces: a writer is a typeface.
"""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipfl_flower.tasks.base import LocalData, Split
from ipfl_flower.tasks.images import Classifier
from ipfl_flower.tasks.leaf import LeafOptions, LeafTask, damaged, read_users
from ipfl_flower.tasks.networks import lenet, strided_cnn
from ipfl_flower.tasks.typefaces import CHARACTERS, TYPEFACES, draw

_SIDE = 28


class FemnistOptions(LeafOptions):
    """Which writer, cut how, which model, and where the files are.

    Attributes
    ----------
    institution
        Number of the writer: of LEAF's, 0 wrote most of all.
    model
        "lenet": 6 and 16 channels and two hidden layers, as for CIFAR-10; "cnn": a smaller one.
    """

    model: Literal["lenet", "cnn"] = "lenet"


class Writer(NamedTuple):
    """What one wrote: images (n, 28, 28) of white paper, 255, and classes (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Femnist(Classifier, LeafTask):
    """FEMNIST with a CNN.

    Parameters
    ----------
    options
        Checked options.
    """

    name: ClassVar[str] = "femnist"
    options_type: ClassVar[type[FemnistOptions]] = FemnistOptions
    options: FemnistOptions

    def build_model(self, seed: int) -> nn.Module:
        """Build the CNN; see :meth:`Task.build_model`."""
        build = lenet if self.options.model == "lenet" else strided_cnn
        return build(1, _SIDE, len(CHARACTERS), seed=seed)

    def source(self) -> str:
        """Say whose characters they are; see :meth:`Task.source`."""
        return "LEAF's FEMNIST" if self.files() else "characters of typefaces, for FEMNIST"

    def writer(self) -> Writer:
        """Return what this institution's writer wrote.

        Raises
        ------
        TaskError
            There are fewer writers than institutions.
        TaskDataError
            Files or typefaces are missing or damaged.
        """
        files = self.files()
        writers = _writers_of_leaf(files) if files else ()
        self.check_users(len(writers) if files else len(TYPEFACES), "writers")
        if files:
            return writers[self.institution]
        return Writer(*draw(TYPEFACES[self.institution], self.seed))

    def data(self) -> LocalData:
        """Read this writer's characters; see :meth:`Task.data`."""
        return self._data

    @cached_property
    def _data(self) -> LocalData:
        images, labels = self.writer()
        parts = self.options.cut(np.arange(len(labels)), self.name)
        return LocalData(
            *(Split(self.inputs(images[part]), torch.from_numpy(labels[part])) for part in parts)
        )

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Turn white paper into 0 and ink into 1: (n, 1, 28, 28)."""
        return torch.from_numpy(1 - images.astype(np.float32) / 255).unsqueeze(1)


@lru_cache(maxsize=1)  # all institutions in a process read the same files
def _writers_of_leaf(files: tuple[Path, ...]) -> tuple[Writer, ...]:
    """Return all writers, those who wrote most first."""
    pieces: dict[str, list[Writer]] = {}
    for user, inputs, labels in read_users(files, "femnist"):
        if inputs:
            pieces.setdefault(user, []).append(_piece(inputs, labels, user, files[0].parent))
    whole = {user: Writer(*map(np.concatenate, zip(*w, strict=True))) for user, w in pieces.items()}
    return tuple(
        whole[user] for user in sorted(whole, key=lambda user: (-len(whole[user].labels), user))
    )


def _piece(inputs: list[Any], labels: list[Any], user: str, folder: Path) -> Writer:
    try:
        values, classes = np.array(inputs, np.float64), np.array(labels)
    except (ValueError, TypeError) as error:
        raise damaged(folder, "femnist", f"{user!r} has no rows of numbers: {error}") from error
    if (
        values.shape != (len(labels), _SIDE * _SIDE)
        or not ((values >= 0) & (values <= 1)).all()
        or classes.shape != (len(labels),)
        or not np.issubdtype(classes.dtype, np.integer)
        or not ((classes >= 0) & (classes < len(CHARACTERS))).all()
    ):
        raise damaged(
            folder,
            "femnist",
            f"{user!r} has other than 784 numbers in [0, 1] and a class in 0 … 61 each",
        )
    pixels = np.rint(values * 255).astype(np.uint8)
    return Writer(pixels.reshape(-1, _SIDE, _SIDE), classes.astype(np.int64))
