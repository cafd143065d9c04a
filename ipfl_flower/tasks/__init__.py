"""The tasks: data sets, how they are cut into institutions, and the models that learn them."""

from ipfl_flower.tasks.base import LocalData, Split, Task
from ipfl_flower.tasks.errors import TaskDataError, TaskError
from ipfl_flower.tasks.loading import TASKS, find_task, load_task

__all__ = [
    "TASKS",
    "LocalData",
    "Split",
    "Task",
    "TaskDataError",
    "TaskError",
    "find_task",
    "load_task",
]
