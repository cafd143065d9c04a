"""The tasks: data sets, how they are cut into institutions, and the models that learn them."""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from ipfl_flower.tasks.base import LocalData, Split, Task
from ipfl_flower.tasks.digits import Digits
from ipfl_flower.tasks.errors import TaskDataError, TaskError, one_line
from ipfl_flower.tasks.fashion_mnist import FashionMnist, FashionOptions
from ipfl_flower.tasks.images import SliceOptions

__all__ = ["TASKS", "LocalData", "Split", "Task", "TaskDataError", "TaskError", "load_task"]

TASKS: dict[str, Callable[[dict[str, Any]], Task]] = {
    Digits.name: lambda options: Digits(SliceOptions(**options)),
    FashionMnist.name: lambda options: FashionMnist(FashionOptions(**options)),
}


def load_task(name: str, **options: Any) -> Task:
    """Make the task that an institution.toml describes; its data is read when asked for.

    Parameters
    ----------
    name
        One of ``TASKS``.
    options
        The rest of the ``[task]`` table.

    Raises
    ------
    TaskError
        No task has this name, or an option is wrong.
    """
    if name not in TASKS:
        raise TaskError(f"task.name {name!r} is not known: choose from {', '.join(sorted(TASKS))}")
    try:
        return TASKS[name](options)
    except ValidationError as error:
        raise TaskError(one_line(error, "task")) from error
