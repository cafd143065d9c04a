"""From the ``[task]`` table of an institution.toml to a task: one built in, or a user's own."""

import inspect
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from ipfl_flower.tasks.base import Task
from ipfl_flower.tasks.cifar10 import Cifar10
from ipfl_flower.tasks.digits import Digits
from ipfl_flower.tasks.errors import TaskError, one_line
from ipfl_flower.tasks.fashion_mnist import FashionMnist
from ipfl_flower.tasks.femnist import Femnist
from ipfl_flower.tasks.instructions import Instructions
from ipfl_flower.tasks.pacs import Pacs
from ipfl_flower.tasks.shakespeare import Shakespeare

TASKS: dict[str, type[Task]] = {
    kind.name: kind
    for kind in (Cifar10, Digits, FashionMnist, Femnist, Instructions, Pacs, Shakespeare)
}


def load_task(name: str, **options: Any) -> Task:
    """Make the task that an institution.toml describes; its data is read when asked for.

    Parameters
    ----------
    name
        See :func:`find_task`.
    options
        The rest of the ``[task]`` table.

    Raises
    ------
    TaskError
        There is no such task, or an option is wrong.
    """
    kind = find_task(name)
    try:
        return kind.from_options(**options)
    except ValidationError as error:
        raise TaskError(one_line(error, "task")) from error
    except TypeError as error:
        raise TaskError(f"task {name} can't be made of the options given ({error})") from error


def find_task(name: str) -> type[Task]:
    """Return the class of a task.

    Parameters
    ----------
    name
        One of ``TASKS``, or ``package.module:Class``, which is imported. Its code runs here, so
        it has to come from the institution's own file, never from a message.

    Raises
    ------
    TaskError
        The name isn't known, its module can't be imported, or it isn't a whole :class:`Task`.
    """
    if ":" not in name:
        if name not in TASKS:
            raise TaskError(
                f"task.name {name!r} is not known: choose from {', '.join(sorted(TASKS))}"
            )
        return TASKS[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise TaskError(
            f"task.name {name!r} can't be imported ({type(error).__name__}: {error}): correct it, "
            "or put its folder on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise TaskError(f"task.name {name!r} is not a class derived from ipfl_flower.tasks.Task")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise TaskError(f"task.name {name!r} lacks {missing}: define what Task asks for")
    return found
