"""Proximal training: the local step of mechanism.md §6, a pure function on a model and data.

    θ ← argmin L(θ) + κ ‖θ − θ̄‖²

by SGD on L, with the quadratic term solved exactly after each step. Adding its gradient 2κ(θ − θ̄)
to that of the loss would do for small κ alone: explicit steps of size lr overshoot from κ·lr ≥ ½
and diverge from κ·lr ≥ 1, and κ = λ/(2η_i) of the paper has no such bound. The exact step

    θ ← (θ' + 2 h κ θ̄) / (1 + 2 h κ)

is stable for every κ. h is the effective step, lr / (1 − momentum): a steady gradient g moves SGD
with momentum by lr·g/(1 − momentum) a step, and with h = lr it would outweigh the quadratic term by
that factor and the fixed point would not be the minimum.

SGD is written out: making a ``torch.optim.SGD`` imports torch's compiler, 1.5 CPU seconds.

A parameter takes its step as soon as backpropagation has its gradient, which is then dropped. So
there is never more than one gradient or two in memory, instead of one for every parameter.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ipfl_flower.tasks import Split
from ipfl_flower.trainer import progress


@dataclass(frozen=True)
class Sgd:
    """How an institution trains in a round: iterations or epochs, one of them set.

    Attributes
    ----------
    iterations
        SGD steps a round.
    epochs
        Passes over the training data a round.
    batch_size
        Samples a step; fewer at the end of a pass.
    learning_rate, momentum, weight_decay
        As of ``torch.optim.SGD``; the momentum starts anew each round.
    """

    iterations: int | None = None
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0

    def steps(self, samples: int) -> int:
        """Return the SGD steps of a round over ``samples`` training samples."""
        return self.iterations or (self.epochs or 0) * -(-samples // self.batch_size)

    def drawn(self, samples: int) -> int:
        """Return how many samples the steps of a round draw from ``samples`` training samples."""
        passes, steps = divmod(self.steps(samples), -(-samples // self.batch_size))
        return passes * samples + steps * self.batch_size


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: Split,
    sgd: Sgd,
    *,
    centre: Mapping[str, Tensor] | None = None,
    coefficient: float = 0.0,
) -> float:
    """Train ``model`` in place, drawing batches from torch's global generator.

    Parameters
    ----------
    model
        Starts where it is.
    loss
        Mean loss of outputs and labels.
    data
        Training samples on the model's device.
    sgd
        Steps and their size.
    centre
        The prox-centre θ̄: a tensor for each parameter that is held near it, by name; others follow
        L alone. None: so do all.
    coefficient
        κ ≥ 0 of κ ‖θ − θ̄‖².

    Returns
    -------
    float
        Mean of the loss L over the steps, not finite if training diverged.

    Raises
    ------
    RuntimeError
        The gradient of a parameter came in several parts, as nested (reentrant) backpropagation
        gives it, or backpropagation needs a parameter after its gradient was complete.
    """
    step = _Step(model, sgd, centre or {}, coefficient)
    total = torch.zeros((), device=data.labels.device)
    steps = sgd.steps(len(data))
    model.train()
    with step.hooked():
        for number, rows in enumerate(_batches(len(data), sgd.batch_size, steps)):
            progress.report(number, steps)
            value = loss(model(data.inputs[rows]), data.labels[rows])
            total += value.detach()
            step.take(value)
    return float(total) / steps


class _Step:
    """One SGD step of every parameter that is trained, during and after backpropagation."""

    def __init__(
        self, model: nn.Module, sgd: Sgd, centre: Mapping[str, Tensor], coefficient: float
    ) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._sgd = sgd
        self._centre = centre
        pull = 2 * coefficient * sgd.learning_rate / (1 - sgd.momentum)
        self._weight = pull / (1 + pull)
        self._velocities: dict[str, Tensor] = {}
        self._waiting: set[str] = set()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Let gradients that arrive inside move their parameters."""
        hooks = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._arrived, name)
            )
            for name, parameter in self._parameters.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def take(self, loss: Tensor) -> None:
        """Take one step down a loss."""
        self._waiting = set(self._parameters)
        loss.backward()  # type: ignore[no-untyped-call]
        for name in self._waiting:  # the loss doesn't depend on them
            self._move(name, torch.zeros_like(self._parameters[name]))

    def _arrived(self, name: str, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if name not in self._waiting or gradient is None:
            raise RuntimeError(
                f"the gradient of {name!r} came in several parts: use checkpoint(…, "
                "use_reentrant=False) in the task's model"
            )
        self._waiting.remove(name)
        self._move(name, gradient.to_dense())

    @torch.no_grad()
    def _move(self, name: str, gradient: Tensor) -> None:
        parameter, sgd = self._parameters[name], self._sgd
        if sgd.momentum:
            if name not in self._velocities:
                self._velocities[name] = torch.zeros_like(parameter)
            gradient = self._velocities[name].mul_(sgd.momentum).add_(gradient)
        if sgd.weight_decay:
            gradient.add_(parameter, alpha=sgd.weight_decay)
        parameter.sub_(gradient, alpha=sgd.learning_rate)
        if name in self._centre:
            parameter.lerp_(self._centre[name], self._weight)


def _batches(samples: int, batch_size: int, steps: int) -> Iterator[Tensor]:
    """Yield ``steps`` batches of row numbers: pass after pass, each in a new random order."""
    given = 0
    while True:
        order = torch.randperm(samples)
        for first in range(0, samples, batch_size):
            if given == steps:
                return
            given += 1
            yield order[first : first + batch_size]
