"""θ⁰, the model that all institutions start from and the operator hands to the server.

It holds what the task shares, and no more.

python -m ipfl_flower.trainer.initial --task digits --seed 0 --out model.npz
python -m ipfl_flower.trainer.initial --task-of institution.toml --seed 0 --out model.npz
"""

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipfl_flower.tasks import TaskError, find_task, load_task
from ipfl_flower.trainer.arrays import Arrays, to_arrays, write_arrays
from ipfl_flower.trainer.parts import Parts


def initial_model(task: Mapping[str, Any], seed: int) -> Arrays:
    """Build the shared part of a task's untrained model; its data isn't read.

    Parameters
    ----------
    task
        A ``[task]`` table; of a built-in task no more than its ``name``, and what its model depends
        on.
    seed
        The same seed gives the same model everywhere.

    Raises
    ------
    TaskError
        No task has this name, an option is wrong, or what it shares can't be.
    """
    options = {**find_task(task["name"]).any_slice, **task}
    loaded = load_task(**options)
    return to_arrays(Parts(loaded, loaded.build_model(seed)).shared)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write θ⁰ to a file; return the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m ipfl_flower.trainer.initial")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--task", help="name of the task, such as digits or package.module:Class")
    task.add_argument(
        "--task-of", type=Path, help="a file with a [task] table, such as an institution.toml"
    )
    parser.add_argument("--model", help="which of the task's models, where it has several")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    given = parser.parse_args(arguments)
    try:
        table = {"name": given.task} if given.task else _task_of(given.task_of)
        table |= {"model": given.model} if given.model else {}
        write_arrays(given.out, initial_model(table, given.seed))
    except (TaskError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _task_of(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("task")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is not a TOML file: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise TaskError(f"{path} has no [task] with a name: add it")
    return table


if __name__ == "__main__":
    sys.exit(main())
