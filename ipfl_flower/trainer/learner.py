"""An institution's model and data in memory: train the model, judge it, exchange its arrays."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipfl_flower.tasks import Split
from ipfl_flower.tasks.base import seeded
from ipfl_flower.trainer import proximal
from ipfl_flower.trainer.arrays import (
    Arrays,
    check_arrays,
    check_finite,
    layout,
    load_arrays,
    to_arrays,
    to_tensors,
)
from ipfl_flower.trainer.errors import ArraysError, TrainingError
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer.parts import Parts
from ipfl_flower.trainer_api import Spec


@dataclass(frozen=True)
class Scores:
    """How a model does on the validation and the test data: accuracy in [0, 1], mean loss."""

    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    test_loss: float

    def beats(self, other: "Scores") -> bool:
        """Tell which is better by the validation data alone.

        Validation data is small, and equal accuracies are common: the loss breaks the tie.
        """
        return (self.validation_accuracy, -self.validation_loss) > (
            other.validation_accuracy,
            -other.validation_loss,
        )

    def named(self, prefix: str) -> dict[str, float]:
        """Return the scores as metrics, ``prefix`` before each name."""
        return {prefix + name: value for name, value in asdict(self).items()}


class Learner:
    """Trains and judges one model, of one institution's task on its data.

    It is the only copy of the model in memory: others are put into it, and what it gives are views.

    Parameters
    ----------
    institution
        Whose data, model, device and optimiser.

    Raises
    ------
    TaskError, TaskDataError
        The data can't be had, or what the task shares can't be.
    """

    def __init__(self, institution: Institution) -> None:
        torch.set_num_threads(institution.threads)
        self._task = institution.task
        self._sgd = institution.sgd
        self._device = institution.device
        self._pace: float | None = None
        self._build()
        self._data = self._task.data().to(institution.device)

    def _build(self) -> None:
        model = self._task.build_model(seed=0)
        # On the CPU: a GPU's libraries may put parameters of their own into one piece of memory.
        self._parts = Parts(self._task, model)
        self._model = model.to(self._device)
        self._counters = {name: tensor.clone() for name, tensor in self._parts.counters.items()}
        self._as_built = True

    def renew(self) -> None:
        """Make the private part what the task builds, where training has changed it."""
        if self._parts.private and not self._as_built:
            del self._model, self._parts  # before there is another
            self._build()

    @property
    def shared(self) -> dict[str, Tensor]:
        """The model's entries that are traded, sharing its memory; may be written."""
        return self._parts.shared

    @property
    def private(self) -> dict[str, Tensor]:
        """The entries that stay and that training may change, as :attr:`shared`."""
        return self._parts.private

    @property
    def sizes(self) -> dict[str, float]:
        """Sizes of the three data sets, as metrics."""
        data = self._data
        return {
            "samples_train": float(len(data.train)),
            "samples_validation": float(len(data.validation)),
            "samples_test": float(len(data.test)),
        }

    @property
    def layout(self) -> dict[str, Spec]:
        """Dtype and shape of each array of the shared part."""
        return layout(self.shared)

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Check that arrays are a shared part of this task; see :func:`check_arrays`."""
        check_arrays(self.shared, arrays)

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays that passed :meth:`check` into the shared part; the private one stays."""
        load_arrays(self.shared, arrays)

    def train(
        self,
        *,
        round_number: int,
        centre: Mapping[str, NDArray[Any]] | None = None,
        coefficient: float = 0.0,
    ) -> float:
        """Train the model for one round, with batches that institution and round alone decide.

        Parameters
        ----------
        round_number
            The round, ≥ 0.
        centre, coefficient
            See :func:`proximal.train`; the centre is of the shared part, and is read where it lies.

        Returns
        -------
        float
            The mean loss over the steps.

        Raises
        ------
        TrainingError
            The loss or the model is no longer finite.
        """
        self._reset_counters()
        self._as_built = False
        tensors = None if centre is None else to_tensors(centre, self.shared)
        sequence = np.random.SeedSequence((self._task.seed, self._task.institution, round_number))
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        began = time.perf_counter()
        with seeded(int(sequence.generate_state(1)[0])):
            loss = proximal.train(
                self._model,
                self._task.loss,
                self._data.train,
                self._sgd,
                centre=tensors,
                coefficient=coefficient,
            )
        # The loss has been read, so a GPU is done, too.
        self._pace = self._sgd.drawn(len(self._data.train)) / (time.perf_counter() - began)
        try:
            check_finite(self.shared | self.private)
        except ArraysError as error:
            raise self._diverged(round_number, str(error)) from error
        if not np.isfinite(loss):
            raise self._diverged(round_number, f"the training loss is {loss}")
        return loss

    @property
    def effort(self) -> dict[str, float]:
        """What :meth:`train` took last, as metrics.

        ``samples_per_second`` of the steps; on a GPU ``gpu_memory_bytes``, the most that tensors
        took there since training began.
        """
        effort = {} if self._pace is None else {"samples_per_second": self._pace}
        if self._pace is not None and self._device == "cuda":
            effort["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        return effort

    def arrays(self) -> Arrays:
        """Return the shared part: read-only views on a CPU, which the next change shows in."""
        return to_arrays(self.shared)

    def private_arrays(self) -> Arrays:
        """Return the private part, as :meth:`arrays` does."""
        return to_arrays(self.private)

    def scores(self) -> Scores | None:
        """Judge the model, or return None when it has no finite loss on this data."""
        self._reset_counters()
        self._model.eval()
        scores = Scores(*self._judge(self._data.validation), *self._judge(self._data.test))
        return scores if np.isfinite([scores.validation_loss, scores.test_loss]).all() else None

    def trained_scores(self, *, round_number: int) -> Scores:
        """Judge the model after :meth:`train`.

        Raises
        ------
        TrainingError
            It has no finite loss.
        """
        scores = self.scores()
        if scores is None:
            raise self._diverged(round_number, "the trained model has no finite loss")
        return scores

    @torch.no_grad()
    def _reset_counters(self) -> None:
        for name, tensor in self._parts.counters.items():
            tensor.copy_(self._counters[name])

    @torch.no_grad()
    def _judge(self, data: Split) -> tuple[float, float]:
        right = loss = 0.0
        for first in range(0, len(data), self._task.judged_at_once):
            rows = slice(first, first + self._task.judged_at_once)
            labels = data.labels[rows]
            outputs = self._model(data.inputs[rows])
            right += self._task.accuracy(outputs, labels) * len(labels)
            loss += float(self._task.loss(outputs, labels)) * len(labels)
        return right / len(data), loss / len(data)

    def _diverged(self, round_number: int, reason: str) -> TrainingError:
        return TrainingError(
            f"training diverged in round {round_number} ({reason}): lower training.learning_rate, "
            f"now {self._sgd.learning_rate:g}"
        )
