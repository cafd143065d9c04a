"""Fashion-MNIST: 70,000 grey 28×28 images of clothing, from Debian's package, a folder or the hub.

The official training and test sets are joined and cut anew, so that each institution's test data
follows the distribution of its training data.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipfl_flower.tasks.base import seeded
from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.files import AbsolutePath
from ipfl_flower.tasks.hub import HubImageOptions, read_images
from ipfl_flower.tasks.images import CLASSES, ImageTask, mlp
from ipfl_flower.tasks.networks import lenet

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
_HOW_TO_GET = (
    "install Debian's package dataset-fashion-mnist, or set data_dir to the folder of the gzipped "
    "IDX files, or dataset to zalando-datasets/fashion_mnist"
)
HUB_NAME = "zalando-datasets/fashion_mnist"


class FashionOptions(HubImageOptions):
    """Which slice, which model, and where the files are, if not on the hub.

    Attributes
    ----------
    model
        "mlp": 196-64-10 at 14×14; at 28×28 "cnn": two convolutions, "lenet": the paper's CNN.
    data_dir
        Absolute path of the folder that holds the four ``*-ubyte.gz`` files.
    """

    model: Literal["mlp", "cnn", "lenet"] = "mlp"
    data_dir: AbsolutePath = DEBIAN_FOLDER


class FashionMnist(ImageTask):
    """Fashion-MNIST with a small MLP or a small CNN."""

    name: ClassVar[str] = "fashion_mnist"
    options_type = FashionOptions

    def __init__(self, options: FashionOptions) -> None:
        super().__init__(options)
        self.model = options.model
        self.folder = Path(options.data_dir)
        self.hub = options.on_hub((28, 28), CLASSES, self.name)

    def build_model(self, seed: int) -> nn.Module:
        """Build the MLP or a CNN; see :meth:`Task.build_model`."""
        if self.model == "lenet":
            return lenet(1, 28, CLASSES, seed=seed)
        return mlp(196, 64, CLASSES, seed=seed) if self.model == "mlp" else small_cnn(seed)

    def source(self) -> str:
        """Say that it is the whole of it, or what else; see :meth:`Task.source`."""
        return "Fashion-MNIST" if self.hub is None else self.hub.source()

    def stand_in(self) -> bool:
        """Tell whether it is another data set of the hub; see :meth:`Task.stand_in`."""
        return self.hub is not None and not self.hub.is_named(HUB_NAME)

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read all 70,000 images, (n, 28, 28), and labels (n,)."""
        if self.hub is not None:
            return read_images(self.hub)
        images, labels = [], []
        for part in ("train", "t10k"):
            images.append(read_idx(self.folder / f"{part}-images-idx3-ubyte.gz", dimensions=3))
            labels.append(read_idx(self.folder / f"{part}-labels-idx1-ubyte.gz", dimensions=1))
            if images[-1].shape[1:] != (28, 28) or len(images[-1]) != len(labels[-1]):
                raise TaskDataError(
                    f"task fashion_mnist: the {part} images and labels in {self.folder} don't "
                    f"belong together: {_HOW_TO_GET}"
                )
        return np.concatenate(images), np.concatenate(labels).astype(np.int64)

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Scale pixels to [0, 1]: (n, 196), 2×2 pixels averaged, or (n, 1, 28, 28)."""
        pixels = torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)
        return nn.functional.avg_pool2d(pixels, 2).flatten(1) if self.model == "mlp" else pixels


def small_cnn(seed: int) -> nn.Module:
    """Build a CNN for 28×28 grey images: 8 and 16 channels of 5×5 and 3×3, then 10 logits."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, CLASSES),
        )


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of bytes.

    Parameters
    ----------
    path
        The file.
    dimensions
        How many it must have: 3 for images, 1 for labels.

    Returns
    -------
    uint8 array
        Read-only, of the shape that the file states.

    Raises
    ------
    TaskDataError
        The file is missing, damaged, or holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise TaskDataError(f"task fashion_mnist: {path} is missing: {_HOW_TO_GET}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TaskDataError(
            f"task fashion_mnist: {path} can't be read ({error}): {_HOW_TO_GET}"
        ) from error
    # IDX: two zero bytes, 8 for unsigned bytes, the number of dimensions, then their sizes.
    header = 4 * (1 + dimensions)
    sizes = content[4:header].ljust(4 * dimensions, b"\0")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) - header != math.prod(shape):
        raise TaskDataError(
            f"task fashion_mnist: {path} is not an IDX file of bytes with {dimensions} "
            f"dimensions, or is cut short: {_HOW_TO_GET}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
