"""Data sets of Hugging Face's hub, or folders of the same files, read with its library `datasets`.

All splits that a data set has are joined, for tasks cut the whole by themselves. From version 4 on,
which the extra asks for, `datasets` runs no code that comes with data.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.files import check_labelled_images
from ipfl_flower.tasks.images import SliceOptions

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
_INSTALL = "pip install 'ipfl-flower[hub]'"
_AT_ONCE = 1000  # rows that are decoded together


def _name_or_folder(value: str) -> str:
    if not Path(value).is_absolute() and not _NAME.fullmatch(value):
        raise ValueError(
            "must be a name on Hugging Face's hub, as owner/name or owner/name@revision, or the "
            f"absolute path of a folder, is {value!r}"
        )
    return value


HubName = Annotated[str, AfterValidator(_name_or_folder)]


class HubImages(NamedTuple):
    """Labelled pictures of the hub, and what a task expects of them.

    Attributes
    ----------
    dataset, image, label
        As in :class:`HubImageOptions`.
    shape
        Each picture's: (height, width) if grey, (height, width, 3) if in colours.
    classes
        How many there are.
    task
        Its name, for messages.
    scaled
        Pictures of other sizes are made of this one, and colours RGB; else they are refused.
    """

    dataset: str
    image: str
    label: str
    shape: tuple[int, ...]
    classes: int
    task: str
    scaled: bool = False

    def source(self) -> str:
        """Say for reports where they are from."""
        return source_of(self.dataset)

    def is_named(self, name: str) -> bool:
        """Tell whether they are the hub's data set of this name, in any revision."""
        return self.dataset.partition("@")[0] == name


class HubImageOptions(SliceOptions):
    """Which slice, and perhaps of which data set of the hub.

    Attributes
    ----------
    dataset
        Name on Hugging Face's hub, as "owner/name" or "owner/name@revision", or the absolute path
        of a folder of parquet files; default: none, the task's own files are read.
    image_column, label_column
        Of ``dataset``: its columns of pictures, and of classes as numbers.
    """

    dataset: HubName | None = None
    image_column: str = Field(default="image", min_length=1)
    label_column: str = Field(default="label", min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> "HubImageOptions":
        if self.dataset is not None and "data_dir" in self.model_fields_set:
            raise ValueError("data_dir and dataset both say where the data is: remove one")
        strays = sorted(name for name in self.model_fields_set if name.endswith("_column"))
        if self.dataset is None and strays:
            raise ValueError(f"{strays[0]} is for dataset alone: remove it")
        return self

    def on_hub(
        self, shape: tuple[int, ...], classes: int, task: str, *, scaled: bool = False
    ) -> HubImages | None:
        """Return what is to be read of the hub, or None; see :class:`HubImages`."""
        if self.dataset is None:
            return None
        image, label = self.image_column, self.label_column
        return HubImages(self.dataset, image, label, shape, classes, task, scaled)


def source_of(dataset: str) -> str:
    """Say for reports where a data set is from."""
    return dataset if Path(dataset).is_absolute() else f"{dataset} (Hugging Face)"


def read_rows(
    dataset: str, columns: Mapping[str, str], task: str, *, subset: str | None = None
) -> Any:
    """Read some columns of a data set, which is downloaded if it isn't in the library's cache.

    Parameters
    ----------
    dataset
        As in :class:`HubImageOptions`.
    columns
        Their names, each with the option that it comes from, for the message.
    task
        Its name, for the message.
    subset
        Which of a data set's configurations, where it has several.

    Returns
    -------
    datasets.Dataset
        The rows of all splits, one split after another.

    Raises
    ------
    TaskDataError
        ``datasets`` isn't installed, the data set can't be had, or a column isn't in it.
    """
    name, revision = _place(dataset, task)
    with reading(dataset, task):
        import datasets  # noqa: PLC0415  # optional, and takes seconds

        rows = datasets.load_dataset(name, subset, split="all", revision=revision)
    for column, option in columns.items():
        if column not in rows.column_names:
            raise TaskDataError(
                f"task {task}: {dataset} has no column {column!r}, but has "
                f"{', '.join(rows.column_names)}: correct {option}"
            )
    return rows.select_columns(list(columns))


def _place(dataset: str, task: str) -> tuple[str, str | None]:
    """Return what `load_dataset` is to be asked for, and the revision."""
    folder = Path(dataset)
    if folder.is_absolute():
        if not folder.is_dir():
            raise TaskDataError(
                f"task {task}: {dataset} is not a folder: set dataset to a folder of parquet "
                "files, or a name on Hugging Face's hub"
            )
        return dataset, None
    name, _, revision = dataset.partition("@")
    if Path(name).exists():  # the library would read it, whatever the hub has
        raise TaskDataError(
            f"task {task}: {name} is also in the working directory: if that is meant, set "
            f"dataset to {str(Path(name).resolve())!r}"
        )
    return name, revision or None


@contextmanager
def reading(dataset: str, task: str) -> Iterator[None]:
    """Name the data set in whatever goes wrong inside.

    Raises
    ------
    TaskDataError
        Anything did.
    """
    try:
        yield
    except TaskDataError:
        raise
    except Exception as error:  # the library, and what it reads with, may raise anything
        what = " ".join(str(error).split())
        if isinstance(error, ImportError):  # the library, or Pillow, which it decodes pictures with
            fix = _INSTALL
        elif Path(dataset).is_absolute():
            fix = "get the files anew, or correct them"
        else:
            fix = (
                "check the name and that this machine reaches huggingface.co, or set dataset to a "
                "folder of its parquet files"
            )
        raise TaskDataError(
            f"task {task}: {dataset} can't be read ({type(error).__name__}: {what}): {fix}"
        ) from error


def pictures(rows: Any, column: str, dataset: str, task: str) -> Iterator[Any]:
    """Decode a column's pictures, one after another.

    Parameters
    ----------
    rows
        As :func:`read_rows` gives them.
    column, dataset, task
        Name of the column; the others for the message.

    Yields
    ------
    PIL.Image.Image

    Raises
    ------
    TaskDataError
        The column holds something else, a picture is damaged, or Pillow isn't installed.
    """
    import datasets  # noqa: PLC0415  # optional; the rows are its

    kind = rows.features[column]
    if not isinstance(kind, datasets.Image):
        raise TaskDataError(
            f"task {task}: column {column!r} of {dataset} holds {kind}, no pictures: correct "
            "image_column"
        )
    with reading(dataset, task):
        for batch in rows.select_columns([column]).iter(_AT_ONCE):
            yield from batch[column]


@lru_cache(maxsize=1)  # several institutions in one process read the same pictures
def read_images(wanted: HubImages) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read all pictures of a data set, and their classes.

    Returns
    -------
    tuple
        Images (n, …) of the shape wanted and labels (n,), in 0 … classes - 1.

    Raises
    ------
    TaskDataError
        See :func:`read_rows` and :func:`pictures`; or a picture has another shape, or a label is
        out of bounds.
    """
    dataset, image, label, shape, classes, task, scaled = wanted
    rows = read_rows(dataset, {image: "image_column", label: "label_column"}, task)
    mode, size = "L" if len(shape) == 2 else "RGB", shape[1::-1]
    pixels = np.empty((len(rows), *shape), np.uint8)
    for number, picture in enumerate(pictures(rows, image, dataset, task)):
        if not scaled and (picture.mode, picture.size) != (mode, size):
            raise TaskDataError(
                f"task {task}: picture {number} of {dataset} is {_kind(picture.mode, picture.size)}"
                f", not {_kind(mode, size)}: set dataset to one of such pictures"
            )
        pixels[number] = picture.convert(mode).resize(size) if scaled else picture
    return check_labelled_images(pixels, np.asarray(rows[label]), classes, task, dataset)


def _kind(mode: str, size: tuple[int, ...]) -> str:
    return f"{mode} of {size[0]}×{size[1]}"
