"""The same model and data as a task of ours: ``[task] name = "bench_model.task:BenchTask"``."""

from typing import Any, ClassVar

from torch import Tensor, nn

from bench_model.network import Network, loss, samples
from ipfl_flower.tasks import LocalData, Split, Task


class BenchTask(Task):
    """A model of a given size that hardly learns.

    Parameters
    ----------
    options
        ``megabytes`` of the model and the ``institution``.
    """

    name: ClassVar[str] = "bench"

    def __init__(self, **options: Any) -> None:
        self.megabytes: float = options["megabytes"]
        self.institution: int = options["institution"]
        self.seed = 0

    def build_model(self, seed: int) -> nn.Module:
        """Build the model; it is the same for every seed."""
        del seed
        return Network(self.megabytes)

    def data(self) -> LocalData:
        """Return the same few samples to train, choose and report on."""
        split = Split(*samples(self.megabytes, self.institution))
        return LocalData(split, split, split)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss that FedAvg's ClientApp has, too."""
        return loss(outputs, labels)

    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the share of right answers."""
        return float((outputs.argmax(dim=1) == labels).float().mean())
