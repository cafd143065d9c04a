"""An institution's model and data in memory: train from given arrays, judge given arrays."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ipfl_flower.tasks import Split
from ipfl_flower.tasks.base import seeded
from ipfl_flower.trainer import proximal
from ipfl_flower.trainer.arrays import (
    Arrays,
    check_arrays,
    layout,
    load_arrays,
    to_arrays,
    to_tensors,
)
from ipfl_flower.trainer.errors import ArraysError, TrainingError
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer_api import Spec

_JUDGED_AT_ONCE = 1024  # samples: bounds the memory of an evaluation


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
    """Trains and judges models of one institution's task on its data.

    Parameters
    ----------
    institution
        Whose data, model, device and SGD.

    Raises
    ------
    TaskError, TaskDataError
        The data can't be had.
    """

    def __init__(self, institution: Institution) -> None:
        torch.set_num_threads(institution.threads)
        self._task = institution.task
        self._sgd = institution.sgd
        self._model = self._task.build_model(seed=0).to(institution.device)
        self._local = {
            name: tensor.clone()
            for name, tensor in self._model.state_dict().items()
            if not tensor.is_floating_point()
        }
        self._data = self._task.data().to(institution.device)

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
        """Dtype and shape of each array of a model of this task."""
        return layout(self._model)

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Check that arrays are a model of this task; see :func:`check_arrays`."""
        check_arrays(self._model, arrays)

    def train(
        self,
        start: Mapping[str, NDArray[Any]],
        *,
        round_number: int,
        centre: Mapping[str, NDArray[Any]] | None = None,
        coefficient: float = 0.0,
    ) -> tuple[Arrays, float]:
        """Train one round from ``start``, with batches that institution and round alone decide.

        Parameters
        ----------
        start
            Where training starts.
        round_number
            The round, ≥ 0.
        centre, coefficient
            See :func:`proximal.train`.

        Returns
        -------
        arrays, loss
            The trained model, and the mean loss over the steps.

        Raises
        ------
        TrainingError
            The loss or the model is no longer finite.
        """
        self._put(start)
        tensors = None if centre is None else to_tensors(self._model, centre)
        sequence = np.random.SeedSequence((self._task.seed, self._task.institution, round_number))
        with seeded(int(sequence.generate_state(1)[0])):
            loss = proximal.train(
                self._model,
                self._task.loss,
                self._data.train,
                self._sgd,
                centre=tensors,
                coefficient=coefficient,
            )
        arrays = to_arrays(self._model)
        try:
            self.check(arrays)
        except ArraysError as error:
            raise self._diverged(round_number, str(error)) from error
        if not np.isfinite(loss):
            raise self._diverged(round_number, f"the training loss is {loss}")
        return arrays, loss

    def scores(self, arrays: Mapping[str, NDArray[Any]]) -> Scores | None:
        """Judge a model, or return None when it has no finite loss on this data."""
        self._put(arrays)
        self._model.eval()
        scores = Scores(*self._judge(self._data.validation), *self._judge(self._data.test))
        return scores if np.isfinite([scores.validation_loss, scores.test_loss]).all() else None

    def trained_scores(self, arrays: Mapping[str, NDArray[Any]], *, round_number: int) -> Scores:
        """Judge the model that :meth:`train` gave.

        Raises
        ------
        TrainingError
            It has no finite loss.
        """
        scores = self.scores(arrays)
        if scores is None:
            raise self._diverged(round_number, "the trained model has no finite loss")
        return scores

    def _put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._model.load_state_dict(self._local, strict=False)
        load_arrays(self._model, arrays)

    @torch.no_grad()
    def _judge(self, data: Split) -> tuple[float, float]:
        right = loss = 0.0
        for first in range(0, len(data), _JUDGED_AT_ONCE):
            labels = data.labels[first : first + _JUDGED_AT_ONCE]
            outputs = self._model(data.inputs[first : first + _JUDGED_AT_ONCE])
            right += self._task.accuracy(outputs, labels) * len(labels)
            loss += float(self._task.loss(outputs, labels)) * len(labels)
        return right / len(data), loss / len(data)

    def _diverged(self, round_number: int, reason: str) -> TrainingError:
        return TrainingError(
            f"training diverged in round {round_number} ({reason}): lower training.learning_rate, "
            f"now {self._sgd.learning_rate:g}"
        )
