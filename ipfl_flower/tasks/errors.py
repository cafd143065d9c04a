"""What can be wrong with a task, and how a pydantic error becomes one clear line."""

from typing import Any

from pydantic import ValidationError


class TaskError(ValueError):
    """A task, or an option of one, that isn't known or can't be met by its data."""


class TaskDataError(RuntimeError):
    """The task's data is missing on this machine, or its files are damaged."""


_BOUNDS = {
    "greater_than_equal": ("≥", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("≤", "le"),
    "less_than": ("<", "lt"),
}


def one_line(error: ValidationError, prefix: str = "") -> str:
    """Say everything that a pydantic validation found in one line.

    Parameters
    ----------
    error
        What pydantic raised.
    prefix
        Path of the model inside its file, such as ``"task"``; put before each setting's name.

    Returns
    -------
    str
        For example ``"terms.cost must be ≥ 0, is -1; terms.colour is not a setting: remove it or
        correct its spelling"``.
    """
    return "; ".join(_describe(dict(details), prefix) for details in error.errors())


def _describe(details: dict[str, Any], prefix: str) -> str:
    path = ".".join([prefix, *map(str, details["loc"])]).strip(".")
    kind = details["type"]
    if kind == "missing":
        return f"{path} is missing: add it"
    if kind == "extra_forbidden":
        return f"{path} is not a setting: remove it or correct its spelling"
    if kind == "value_error":
        message = str(details["ctx"]["error"])
        return f"{path}: {message}" if path else message
    given = details["input"]
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        return f"{path} must be {sign} {details['ctx'][key]:g}, is {given}"
    message = (
        str(details["msg"])
        .replace("Input should", "must")
        .replace("a valid i", "an i")
        .replace("valid ", "")
    )
    return f"{path} {message}, is {given!r}"
