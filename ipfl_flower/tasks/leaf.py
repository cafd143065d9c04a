"""The files of LEAF (Caldas et al., 2018; leaf.cmu.edu): JSON, samples grouped by their users."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ipfl_flower.tasks.errors import TaskDataError, TaskError
from ipfl_flower.tasks.files import DATA_DIR_VARIABLE, AbsolutePath, data_folder, read_bytes
from ipfl_flower.tasks.slices import PartOptions, PartTask

HOW_TO_GET = (
    "make it with LEAF's preprocess.sh, and set data_dir to the folder with its train and test "
    "folders"
)


class LeafOptions(PartOptions):
    """Which user, cut how, and where the files are.

    Attributes
    ----------
    data_dir
        Absolute path of LEAF's folder; default: the folder of the task's name in IPFL_DATA_DIR if
        there is one, and else what stands in for LEAF's files.
    """

    data_dir: AbsolutePath | None = None


class LeafTask(PartTask):
    """A task on LEAF's files, or else on what stands in for them; an institution is a user."""

    options: LeafOptions

    def stand_in(self) -> bool:
        """Tell whether the files are others than LEAF's; see :meth:`Task.stand_in`."""
        return not self.files()

    def files(self) -> tuple[Path, ...]:
        """Return LEAF's files, none where no option names a folder; see :func:`leaf_files`."""
        return tuple(leaf_files(self.options.data_dir, self.name))

    def check_users(self, count: int, users: str) -> None:
        """Raise TaskError, which calls users ``users``, if there are more institutions."""
        if self.options.institutions > count:
            raise TaskError(
                f"task {self.name}: institutions must be ≤ {count}, the {users} there are, is "
                f"{self.options.institutions}"
            )


def leaf_files(data_dir: str | None, task: str) -> list[Path]:
    """Return the files of a LEAF data set, none where no option names a folder.

    Parameters
    ----------
    data_dir
        Where they must be; None: they may be in the folder that IPFL_DATA_DIR names.
    task
        Name of the data set. They may lie in a subfolder of this name.

    Raises
    ------
    TaskDataError
        The folder that the option names holds none.
    """
    if data_dir is None and not os.environ.get(DATA_DIR_VARIABLE):
        return []
    folder = data_folder(data_dir, task, HOW_TO_GET)
    named = folder / task
    if named.is_dir():
        folder = named
    elif data_dir is None:
        return []
    files = sorted(folder.glob("**/train/*.json")) + sorted(folder.glob("**/test/*.json"))
    files = files or sorted(folder.glob("*.json"))
    if not files:
        raise TaskDataError(f"task {task}: {folder} holds no .json files of LEAF's: {HOW_TO_GET}")
    return files


def read_users(files: Iterable[Path], task: str) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Yield users with their inputs and labels, a user once for each file that names it.

    Parameters
    ----------
    files
        As :func:`leaf_files` gives them.
    task
        Its name, for the message.

    Raises
    ------
    TaskDataError
        A file is damaged, or not of this format.
    """
    for path in files:
        try:
            users = json.loads(read_bytes(path, task, HOW_TO_GET))["user_data"].items()
            parts = [(str(user), data["x"], data["y"]) for user, data in users]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(path, task, f"{type(error).__name__}: {error}") from error
        for user, inputs, labels in parts:
            if not isinstance(inputs, list) or not isinstance(labels, list):
                raise damaged(path, task, f"x and y of {user!r} are no lists")
            if len(inputs) != len(labels):
                raise damaged(path, task, f"x and y of {user!r} differ in length")
            yield user, inputs, labels


def damaged(path: Path, task: str, reason: str) -> TaskDataError:
    """Return the error that says so."""
    return TaskDataError(f"task {task}: {path} is not a file of LEAF's ({reason}): {HOW_TO_GET}")
