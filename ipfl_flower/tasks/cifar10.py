"""CIFAR-10: 60,000 colour 32×32 images in ten classes, from the official files, an .npz or the hub.

The official training and test sets are joined and cut anew, as Fashion-MNIST's are.
"""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.files import (
    AbsolutePath,
    check_labelled_images,
    data_folder,
    read_bytes,
    read_npz,
)
from ipfl_flower.tasks.hub import HubImageOptions, read_images
from ipfl_flower.tasks.images import CLASSES, ImageTask
from ipfl_flower.tasks.networks import lenet, strided_cnn

HOW_TO_GET = (
    "set data_dir to a folder with cifar-10-batches-bin or cifar-10-batches-py (from "
    "https://www.cs.toronto.edu/~kriz/cifar.html), cifar10.npz or cifar10_small.npz, or dataset to "
    "uoft-cs/cifar10"
)
HUB_NAME = "uoft-cs/cifar10"
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_PART = "cifar10_small.npz"  # 13,000 of the images
_PIXELS = 3 * 32 * 32
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training set's channels

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Cifar10Options(HubImageOptions):
    """Which slice, which model, and where the files are, if not on the hub.

    Attributes
    ----------
    model
        "lenet": the paper's CNN; "cnn": a smaller one.
    data_dir
        Absolute path of the folder; default: the environment's IPFL_DATA_DIR.
    """

    model: Literal["lenet", "cnn"] = "lenet"
    data_dir: AbsolutePath | None = None
    image_column: str = Field(default="img", min_length=1)


class Cifar10(ImageTask):
    """CIFAR-10 with a CNN."""

    name: ClassVar[str] = "cifar10"
    options_type = Cifar10Options

    def __init__(self, options: Cifar10Options) -> None:
        super().__init__(options)
        self.model = options.model
        self.data_dir = options.data_dir
        self.hub = options.on_hub((32, 32, 3), CLASSES, self.name)

    def build_model(self, seed: int) -> nn.Module:
        """Build the CNN; see :meth:`Task.build_model`."""
        build = lenet if self.model == "lenet" else strided_cnn
        return build(3, 32, CLASSES, seed=seed)

    def source(self) -> str:
        """Say whether it is the whole of CIFAR-10; see :meth:`Task.source`."""
        if self.hub is not None:
            return self.hub.source()
        kind, path = _find(data_folder(self.data_dir, self.name, HOW_TO_GET))
        return f"CIFAR-10 ({path.name})" if kind != "npz" else f"CIFAR-10, of {path.name}"

    def stand_in(self) -> bool:
        """Tell whether it is a part of CIFAR-10; see :meth:`Task.stand_in`."""
        if self.hub is not None:
            return not self.hub.is_named(HUB_NAME)
        return _find(data_folder(self.data_dir, self.name, HOW_TO_GET))[1].name == _PART

    def read(self) -> Images:
        """Read all images, (n, 32, 32, 3), and labels (n,)."""
        if self.hub is not None:
            return read_images(self.hub)
        kind, path = _find(data_folder(self.data_dir, self.name, HOW_TO_GET))
        if kind == "npz":
            return _read_archive(path)
        read_batch = _read_binary if kind == "bin" else _read_python
        batches = [read_batch(path / name) for name in _BATCHES]
        images, labels = zip(*batches, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Standardise each colour: (n, 3, 32, 32)."""
        return standardise(images, _MEAN, _STD)


def standardise(
    images: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Turn (n, height, width, 3) bytes into (n, 3, height, width) of mean 0 and deviation 1.

    Parameters
    ----------
    images
        Bytes.
    mean, std
        Of each colour of the data set, where a byte is in [0, 1].
    """
    pixels = images.astype(np.float32) / 255
    pixels -= np.array(mean, np.float32)
    pixels /= np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _find(folder: Path) -> tuple[str, Path]:
    """Return the kind of files in a folder, and the folder or file they are in."""
    for place in (folder / "cifar-10-batches-bin", folder):
        if (place / f"{_BATCHES[0]}.bin").exists():
            return "bin", place
    for place in (folder / "cifar-10-batches-py", folder):
        if (place / _BATCHES[0]).exists():
            return "py", place
    for name in ("cifar10.npz", _PART):
        if (folder / name).exists():
            return "npz", folder / name
    raise TaskDataError(f"task cifar10: {folder} holds none of its files: {HOW_TO_GET}")


def _read_archive(path: Path) -> Images:
    wanted = {"x_train": 4, "y_train": 1, "x_test": 4, "y_test": 1}
    arrays = read_npz(path, wanted, "cifar10", HOW_TO_GET)
    if any(arrays[name].shape[1:] != (32, 32, 3) for name in ("x_train", "x_test")):
        raise TaskDataError(f"task cifar10: {path} has images of another size: {HOW_TO_GET}")
    images, labels = (
        np.concatenate([arrays[f"{kind}_train"], arrays[f"{kind}_test"]]) for kind in "xy"
    )
    return check_labelled_images(images, labels, CLASSES, "cifar10", path)


def _read_binary(batch: Path) -> Images:
    """Read rows of a byte for the label and 3,072 for the colours, one after another."""
    path = batch.with_suffix(".bin")
    content = read_bytes(path, "cifar10", HOW_TO_GET)
    if not content or len(content) % (1 + _PIXELS):
        raise TaskDataError(
            f"task cifar10: {path} has {len(content)} bytes, no multiple of {1 + _PIXELS}: "
            f"{HOW_TO_GET}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return _checked(rows[:, 1:], rows[:, 0], path)


def _read_python(path: Path) -> Images:
    """Read a pickled batch, of which only plain values and arrays of numbers are made."""
    content = read_bytes(path, "cifar10", HOW_TO_GET)
    try:
        batch = _NumbersAlone(BytesIO(content), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle may raise anything
        raise TaskDataError(
            f"task cifar10: {path} can't be read ({type(error).__name__}: {error}): {HOW_TO_GET}"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != _PIXELS or labels.ndim != 1:
        raise TaskDataError(f"task cifar10: {path} is not a batch of images: {HOW_TO_GET}")
    return _checked(rows, labels, path)


def _checked(rows: NDArray[Any], labels: NDArray[Any], path: Path) -> Images:
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return check_labelled_images(images, labels, CLASSES, "cifar10", path)


class _NumbersAlone(pickle.Unpickler):
    """Makes NumPy arrays and plain values, and nothing else: a pickle can otherwise run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may call."""
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
