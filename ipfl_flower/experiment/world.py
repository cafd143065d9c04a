"""The institutions of a setting in this process: data and models in memory, state on a RAM disk."""

import dataclasses
import os
import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipfl_flower.experiment.definition import (
    COST,
    DISHONEST,
    VALUE,
    ExperimentError,
    Seat,
    Setting,
)
from ipfl_flower.market import Terms
from ipfl_flower.models import Layout
from ipfl_flower.tasks import LocalData, Split, Task, load_task
from ipfl_flower.tasks.images import ImageTask, SliceOptions
from ipfl_flower.trainer import Institution
from ipfl_flower.trainer.arrays import Arrays, to_arrays
from ipfl_flower.trainer.learner import Learner
from ipfl_flower.trainer.parts import Parts

RAM_DISK: Final = Path("/dev/shm")  # noqa: S108 - only where it is there, for a folder of our own


class RandomLabels(Task):
    """A task whose labels are permuted among its samples: what is learned from it is noise."""

    name: ClassVar[str] = "random_labels"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.judged_at_once = task.judged_at_once  # type: ignore[misc] # the task's, not a class's
        self.seed = task.seed
        self.institution = task.institution

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Make it of the ``[task]`` table under ``of``, whose labels are the true ones."""
        if not isinstance(table := options.pop("of", None), Mapping) or options:
            raise TypeError("it takes of, a [task] table, and nothing else")
        return cls(load_task(**table))

    def build_model(self, seed: int) -> nn.Module:
        """Build the task's own model."""
        return self.task.build_model(seed)

    def shareable(self, model: nn.Module) -> Iterable[str]:
        """Name what the task names."""
        return self.task.shareable(model)

    def data(self) -> LocalData:
        """Deal the labels out anew, in each of the three parts."""
        data = self.task.data()
        deal = torch.Generator().manual_seed(self.seed * 1_000_003 + self.institution)
        return LocalData(*(_dealt(part, deal) for part in (data.train, data.validation, data.test)))

    def source(self) -> str:
        """Say what the task says."""
        return self.task.source()

    def stand_in(self) -> bool:
        """Tell what the task tells."""
        return self.task.stand_in()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the task's loss."""
        return self.task.loss(outputs, labels)

    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the task's accuracy."""
        return self.task.accuracy(outputs, labels)


def _dealt(part: Split, deal: torch.Generator) -> Split:
    return Split(part.inputs, part.labels[torch.randperm(len(part), generator=deal)])


@dataclass(frozen=True, eq=False)
class World:
    """A setting's institutions, ready to be asked; made by `World.of`, used by every method.

    Attributes
    ----------
    setting : Setting
    institutions : tuple of Institution
        Their `state_dir` is replaced by one of the run's.
    learners : tuple of Learner
        Each one's model and data in memory.
    initial : dict of str to ndarray
        θ⁰.
    layout : Layout
        Of every model.
    truth, terms : tuple of Terms
        What is true of each institution, and what it reports.
    honest : bool (m,)
        Whom means count.
    """

    setting: Setting
    institutions: tuple[Institution, ...]
    learners: tuple[Learner, ...]
    initial: Arrays
    layout: Layout
    truth: tuple[Terms, ...]
    terms: tuple[Terms, ...]
    honest: NDArray[np.bool_]

    @classmethod
    def of(cls, setting: Setting, device: Literal["cpu", "cuda"] = "cpu") -> "World":
        """Read the data and build the models.

        Raises
        ------
        TaskError, TaskDataError
            A task's options are wrong, or its data can't be had.
        ExperimentError
            The models aren't float32, which methods calculate in.
        """
        torch.set_num_threads(1)
        tasks = read_tasks(setting.seats)
        sizes = [len(task.data().train) for task in tasks]
        honest = np.array([seat.role not in DISHONEST for seat in setting.seats])
        truth = _truth(setting, sizes, honest)
        terms = [_said(t, seat) for t, seat in zip(truth, setting.seats, strict=True)]
        institutions = [
            Institution(
                name=seat.name,
                state_dir=Path(seat.name),
                device=device,
                threads=1,
                leaving=False,
                terms=said,
                sgd=setting.sgd,
                task=task,
            )
            for seat, task, said in zip(setting.seats, tasks, terms, strict=True)
        ]
        model = tasks[0].build_model(setting.seed)
        initial = to_arrays(Parts(tasks[0], model).shared)
        layout = Layout.of(initial)
        if set(layout.dtypes) != {"float32"}:
            raise ExperimentError(
                f"setting {setting.name}: its model is {', '.join(sorted(set(layout.dtypes)))}: "
                "methods are compared in float32, make it that"
            )
        learners = tuple(Learner(institution) for institution in institutions)
        return cls(
            setting,
            tuple(institutions),
            learners,
            {name: array.copy() for name, array in initial.items()},
            layout,
            tuple(truth),
            tuple(terms),
            honest,
        )

    def at(self, position: int, folder: Path) -> Institution:
        """Return an institution whose state lies in a folder of its own under `folder`."""
        institution = self.institutions[position]
        return dataclasses.replace(institution, state_dir=folder / f"institution-{position:03d}")


def run_folder(*, in_memory: bool = True) -> "tempfile.TemporaryDirectory[str]":
    """Make a folder for one run, in memory where there is a RAM disk: every round is fsynced."""
    ram = in_memory and RAM_DISK.is_dir() and os.access(RAM_DISK, os.W_OK)
    return tempfile.TemporaryDirectory(prefix="ipfl-experiment-", dir=RAM_DISK if ram else None)


def read_tasks(seats: Sequence[Seat]) -> list[Task]:
    """Make the tasks and read their data; images that they have in common are read once.

    Raises
    ------
    TaskError, TaskDataError
        A task's options are wrong, or its data can't be had.
    """
    read: dict[Hashable, Any] = {}
    tasks: list[Task] = []
    for seat in seats:
        task = load_task(**seat.task)
        if isinstance(task, ImageTask):
            _read_once(task, read)
        tasks.append(RandomLabels(task) if seat.random_labels else task)
    for task in tasks:
        task.data()
    return tasks


def _read_once(task: ImageTask, read: dict[Hashable, Any]) -> None:
    """Let `task` take the whole set from `read` if it is there, and put it there if it isn't."""
    # What the set depends on: its own options, without those of the slice.
    own = task.options.model_dump(exclude=set(SliceOptions.model_fields))
    key = (type(task), repr(sorted(own.items())))
    read_anew = task.read

    def once() -> Any:
        if key not in read:
            read[key] = read_anew()
        return read[key]

    task.read = once  # type: ignore[method-assign]


def _truth(setting: Setting, sizes: Sequence[int], honest: NDArray[np.bool_]) -> list[Terms]:
    """Return each institution's true terms: one K for all, with V = `VALUE` at the mean size."""
    mean = float(np.mean(np.array(sizes)[honest])) if honest.any() else 0.0
    return [
        Terms(
            samples=samples,
            cost=COST[setting.economics] if seat.cost is None else seat.cost,
            eagerness=VALUE**2 * mean if seat.eagerness is None else seat.eagerness,
            budget=seat.budget,
        )
        for seat, samples in zip(setting.seats, sizes, strict=True)
    ]


def _said(truth: Terms, seat: Seat) -> Terms:
    factors = {name: getattr(truth, name) * factor for name, factor in seat.exaggerates.items()}
    if "samples" in factors:
        factors["samples"] = round(factors["samples"])
    return dataclasses.replace(truth, **factors)
