"""Where a task's files lie, and how an archive of arrays is read without trusting it."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from ipfl_flower.tasks.errors import TaskDataError

DATA_DIR_VARIABLE = "IPFL_DATA_DIR"


def _absolute(value: str) -> str:
    # A Flower daemon's working directory is its own: a relative path would be read from there.
    if not Path(value).is_absolute():
        raise ValueError(f"must be an absolute path, is {value!r}")
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


def data_folder(data_dir: str | None, task: str, how_to_get: str) -> Path:
    """Return the folder that an option names, or else the environment.

    Parameters
    ----------
    data_dir
        The option, or None.
    task, how_to_get
        Name of the task and what to do, for the message.

    Raises
    ------
    TaskDataError
        Neither names a folder, or it isn't there.
    """
    value = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not value:
        raise TaskDataError(
            f"task {task}: neither data_dir nor {DATA_DIR_VARIABLE} says where its data is: "
            f"{how_to_get}"
        )
    folder = Path(value)
    if not folder.is_dir():
        raise TaskDataError(f"task {task}: {folder} is not a folder: {how_to_get}")
    return folder


def read_bytes(path: Path, task: str, how_to_get: str) -> bytes:
    """Read a file of a task's data.

    Raises
    ------
    TaskDataError
        It can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskDataError(
            f"task {task}: {path} can't be read ({error.strerror}): {how_to_get}"
        ) from error


def read_npz(
    path: Path, wanted: Mapping[str, int], task: str, how_to_get: str
) -> dict[str, NDArray[Any]]:
    """Read arrays of an .npz file; nothing in it is run.

    Parameters
    ----------
    path
        The file.
    wanted
        Names of the arrays and how many dimensions each has.
    task, how_to_get
        Name of the task and what to do, for the message.

    Raises
    ------
    TaskDataError
        The file is missing or damaged, or an array is missing or isn't what it should be.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in wanted}
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        zlib.error,
    ) as error:
        raise _unreadable(path, task, error, how_to_get) from error
    except (zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        raise _unreadable(path, task, error, how_to_get) from error
    for name, dimensions in wanted.items():
        if arrays[name].ndim != dimensions:
            raise TaskDataError(
                f"task {task}: {name!r} in {path} has {arrays[name].ndim} dimensions, not "
                f"{dimensions}: {how_to_get}"
            )
    return arrays


def _unreadable(path: Path, task: str, error: Exception, how_to_get: str) -> TaskDataError:
    return TaskDataError(
        f"task {task}: {path} can't be read ({type(error).__name__}: {error}): {how_to_get}"
    )


def check_labelled_images(
    images: NDArray[Any], labels: NDArray[Any], classes: int, task: str, where: Path | str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Check bytes of images (n, …) and their labels (n,) in 0 … classes - 1.

    Raises
    ------
    TaskDataError
        They don't belong together, or aren't such.
    """
    whole = np.issubdtype(labels.dtype, np.integer) and images.dtype == np.uint8
    if (
        not whole
        or len(images) != len(labels)
        or not len(labels)
        or labels.min() < 0
        or labels.max() >= classes
    ):
        raise TaskDataError(
            f"task {task}: {where} doesn't hold images of bytes with a label in 0 … {classes - 1} "
            "each: get it anew"
        )
    return images, labels.astype(np.int64)
