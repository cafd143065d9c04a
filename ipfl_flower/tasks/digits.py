"""Hand-written digits: 1,797 real 8×8 images in scikit-learn's wheel, which isn't imported."""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.images import CLASSES, ImageTask, mlp

_PIXEL_MAX = 16


class Digits(ImageTask):
    """Digits with an MLP 64-64-10: instant, the demo's task."""

    name: ClassVar[str] = "digits"

    def build_model(self, seed: int) -> nn.Module:
        """Build the MLP; see :meth:`Task.build_model`."""
        return mlp(64, 64, CLASSES, seed=seed)

    def source(self) -> str:
        """Say whose digits they are; see :meth:`Task.source`."""
        return "scikit-learn's hand-written digits"

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the file in scikit-learn's package folder."""
        return read_digits(digits_file())

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Scale pixels to [0, 1] and flatten, giving (n, 64)."""
        return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / _PIXEL_MAX)


def digits_file() -> Path:
    """Return where scikit-learn keeps the digits.

    Raises
    ------
    TaskDataError
        scikit-learn isn't installed.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise TaskDataError(
            "task digits: scikit-learn, which holds the images, isn't installed: "
            "pip install 'ipfl-flower[demo]'"
        )
    return Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


def read_digits(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read images (1797, 8, 8), pixels 0 … 16, and labels (1797,) from a gzipped CSV.

    Raises
    ------
    TaskDataError
        The file is missing or damaged.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode("ascii").split()
        rows = np.array([line.split(",") for line in lines], np.float64).astype(np.int64)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise TaskDataError(
            f"task digits: {path} can't be read ({error}): reinstall scikit-learn"
        ) from error
    if rows.shape[1:] != (65,) or rows.min() < 0 or rows.max() > _PIXEL_MAX:
        raise TaskDataError(f"task digits: {path} is not the digits data: reinstall scikit-learn")
    return rows[:, :-1].astype(np.uint8).reshape(-1, 8, 8), rows[:, -1]
