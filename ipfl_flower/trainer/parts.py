"""The two parts of a model: what its task shares with the market, and what stays private."""

import torch
from torch import Tensor, nn

from ipfl_flower.tasks import Task, TaskError
from ipfl_flower.trainer.arrays import DTYPES


class Parts:
    """The shared and the private part of a model.

    Parameters
    ----------
    task
        Says what is shared.
    model
        The task's, on any device.

    Raises
    ------
    TaskError
        The task shares nothing, what the model has not, or what can't be averaged.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        self._model = model
        entries = model.state_dict()
        parameters = dict(model.named_parameters(remove_duplicate=False))
        frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
        named = set(task.shareable(model))
        strays = sorted(named - entries.keys())
        if strays:
            raise TaskError(
                f"task {task.name} shares {strays[0]!r}, which its model has not: return names of "
                "its state_dict from shareable()"
            )
        self._shared = [name for name in entries if name in named]
        self._private = [
            name
            for name, entry in entries.items()
            if name not in named | frozen and entry.is_floating_point()
        ]
        if not self._shared:
            raise TaskError(f"task {task.name} shares nothing: name entries in shareable()")
        for name in self._shared + self._private:
            if entries[name].dtype not in DTYPES:
                raise TaskError(
                    f"task {task.name}: {name!r} is {entries[name].dtype}, which can't be traded "
                    "or stored: make it float16, bfloat16, float32 or float64"
                )
        _check_apart(task, {n: t for n, t in entries.items() if n in named}, entries)

    @property
    def shared(self) -> dict[str, Tensor]:
        """The entries that are traded; they share memory with the model."""
        entries = self._model.state_dict()
        return {name: entries[name] for name in self._shared}

    @property
    def private(self) -> dict[str, Tensor]:
        """The other floating-point entries that training may change; they share memory, too.

        Frozen parameters are not among them: the task builds them anew.
        """
        entries = self._model.state_dict()
        return {name: entries[name] for name in self._private}

    @property
    def counters(self) -> dict[str, Tensor]:
        """The buffers that aren't floating-point; they share memory, too."""
        parameters = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        return {
            name: entry
            for name, entry in self._model.state_dict().items()
            if name not in parameters and not entry.is_floating_point()
        }


def _check_apart(task: Task, shared: dict[str, Tensor], entries: dict[str, Tensor]) -> None:
    """Check that nothing private lies in the memory of what is shared, as a tied weight would."""
    owners = {_memory(entry): name for name, entry in shared.items() if entry.numel()}
    for name, entry in entries.items():
        if name not in shared and entry.numel() and _memory(entry) in owners:
            raise TaskError(
                f"task {task.name} shares {owners[_memory(entry)]!r}, but not {name!r}, which is "
                "the same memory: share both or none"
            )


def _memory(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
