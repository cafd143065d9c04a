"""θ⁰, the model that all institutions start from and the operator hands to the server.

python -m ipfl_flower.trainer.initial --task digits --seed 0 --out model.npz
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipfl_flower.tasks import TaskError, load_task
from ipfl_flower.trainer.arrays import Arrays, to_arrays, write_arrays

# What load_task wants to know of a slice, and a model doesn't depend on.
_ANY_SLICE: dict[str, Any] = {
    "split": "clusters",
    "institution": 0,
    "institutions": 1,
    "samples": 1,
}


def initial_model(task: Mapping[str, Any], seed: int) -> Arrays:
    """Build a task's untrained model; its data isn't read.

    Parameters
    ----------
    task
        A ``[task]`` table, or no more than its ``name``, and ``model`` where there is a choice.
    seed
        The same seed gives the same model everywhere.

    Raises
    ------
    TaskError
        No task has this name, or an option is wrong.
    """
    return to_arrays(load_task(**(_ANY_SLICE | dict(task))).build_model(seed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write θ⁰ to a file; return the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m ipfl_flower.trainer.initial")
    parser.add_argument("--task", required=True, help="name of the task, such as digits")
    parser.add_argument("--model", help="which of the task's models, where it has several")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    given = parser.parse_args(arguments)
    task = {"name": given.task} | ({"model": given.model} if given.model else {})
    try:
        arrays = initial_model(task, given.seed)
        write_arrays(given.out, arrays)
    except (TaskError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
