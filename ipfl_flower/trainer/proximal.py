"""Proximal training: the local step of mechanism.md §6, a pure function on a model and data.

    θ ← argmin L(θ) + κ ‖θ − θ̄‖²

by SGD or AdamW on L, with the quadratic term solved exactly after each step. Adding its gradient
2κ(θ − θ̄) to that of the loss would do for small κ alone: explicit steps of size lr overshoot from
κ·lr ≥ ½ and diverge from κ·lr ≥ 1, and κ = λ/(2η_i) of the paper has no such bound. The exact step

    θ ← (θ' + 2 h κ θ̄) / (1 + 2 h κ)

is stable for every κ. h is the effective step: a steady gradient g moves θ by h·g a step. With this
h and no other the fixed point, g + 2κ(θ − θ̄) = 0, is the minimum.

* SGD: h = lr / (1 − momentum), as momentum adds up g / (1 − momentum).
* AdamW: h = lr / (√v̂ + ε), for each element: the exact step is that in Adam's own metric. Its
  weight decay is decoupled: no part of L, so it moves the fixed point towards 0. Where the gradient
  has been 0 so far, h = lr / ε is huge, and the element goes to the centre at once.

Both are written out: making a ``torch.optim.SGD`` imports torch's compiler, 1.5 CPU seconds.

A parameter takes its step as soon as backpropagation has its gradient, which is then dropped. So
there is never more than one gradient or two in memory, instead of one for every parameter.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import ClassVar, Final, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ipfl_flower.tasks import Split
from ipfl_flower.trainer import progress


@dataclass(frozen=True)
class _Steps:
    """How long an institution trains in a round: iterations or epochs, one of them set."""

    iterations: int | None = None
    epochs: int | None = None
    batch_size: int = 32

    def steps(self, samples: int) -> int:
        """Return the steps of a round over ``samples`` training samples."""
        return self.iterations or (self.epochs or 0) * -(-samples // self.batch_size)

    def drawn(self, samples: int) -> int:
        """Return how many samples the steps of a round draw from ``samples`` training samples."""
        passes, steps = divmod(self.steps(samples), -(-samples // self.batch_size))
        return passes * samples + steps * self.batch_size


@dataclass(frozen=True)
class Sgd(_Steps):
    """How an institution trains in a round with SGD: iterations or epochs, one of them set.

    Attributes
    ----------
    iterations
        Steps a round.
    epochs
        Passes over the training data a round.
    batch_size
        Samples a step; fewer at the end of a pass.
    learning_rate, momentum, weight_decay
        As of ``torch.optim.SGD``; the momentum starts anew each round.
    """

    name: ClassVar[str] = "sgd"

    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamW(_Steps):
    """How an institution trains in a round with AdamW (Loshchilov and Hutter, ICLR 2019).

    Attributes
    ----------
    iterations, epochs, batch_size
        As of :class:`Sgd`.
    learning_rate, betas, epsilon, weight_decay
        As of ``torch.optim.AdamW``; the moments start anew each round. They are float32 where the
        parameter is less: in float16 an ε of 1e-8 is 0, and in bfloat16 v never shrinks.
    """

    name: ClassVar[str] = "adamw"

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0


Optimiser: TypeAlias = Sgd | AdamW

OPTIMISERS: Final[Mapping[str, type[Optimiser]]] = {kind.name: kind for kind in (Sgd, AdamW)}


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: Split,
    optimiser: Optimiser,
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
    optimiser
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
    step = _Step(model, _rule(optimiser, coefficient), centre or {})
    total = torch.zeros((), device=data.labels.device)
    steps = optimiser.steps(len(data))
    model.train()
    with step.hooked():
        for number, rows in enumerate(_batches(len(data), optimiser.batch_size, steps)):
            progress.report(number, steps)
            value = loss(model(data.inputs[rows]), data.labels[rows])
            total += value.detach()
            step.take(value)
    return float(total) / steps


class _Rule(Protocol):
    """How a gradient moves a parameter, and then the centre that it has, if any."""

    def move(self, name: str, parameter: Tensor, gradient: Tensor, centre: Tensor | None) -> None:
        """Take the parameter's next step.

        The gradient is not written to: backpropagation goes on, and its memory may be that of a
        gradient on its way to another parameter (of a view or a broadcast).
        """


class _SgdRule:
    def __init__(self, sgd: Sgd, coefficient: float) -> None:
        self._sgd = sgd
        pull = 2 * coefficient * sgd.learning_rate / (1 - sgd.momentum)
        self._weight = 1 / (1 + 1 / pull) if pull else 0.0  # so written that no κ overflows
        self._velocities: dict[str, Tensor] = {}

    def move(self, name: str, parameter: Tensor, gradient: Tensor, centre: Tensor | None) -> None:
        sgd = self._sgd
        if sgd.weight_decay:
            gradient = gradient.add(parameter, alpha=sgd.weight_decay)
        if sgd.momentum:
            if name not in self._velocities:
                self._velocities[name] = torch.zeros_like(parameter)
            gradient = self._velocities[name].mul_(sgd.momentum).add_(gradient)
        parameter.sub_(gradient, alpha=sgd.learning_rate)
        if centre is not None:
            parameter.lerp_(centre, self._weight)


class _AdamWRule:
    def __init__(self, adamw: AdamW, coefficient: float) -> None:
        self._adamw = adamw
        self._pull = 2 * coefficient * adamw.learning_rate
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._taken: Counter[str] = Counter()

    def move(self, name: str, parameter: Tensor, gradient: Tensor, centre: Tensor | None) -> None:
        adamw, (beta1, beta2) = self._adamw, self._adamw.betas
        moved = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
        gradient = gradient.to(moved.dtype)
        if name not in self._moments:
            self._moments[name] = (torch.zeros_like(moved), torch.zeros_like(moved))
        first, second = self._moments[name]
        self._taken[name] += 1
        taken = self._taken[name]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = second.sqrt()  # √v̂ + ε
        scale.div_(sqrt(1 - beta2**taken)).add_(adamw.epsilon)
        moved.mul_(1 - adamw.learning_rate * adamw.weight_decay)
        moved.addcdiv_(first, scale, value=-adamw.learning_rate / (1 - beta1**taken))
        if centre is not None:
            # 2hκ / (1 + 2hκ), so written that no κ overflows
            moved.lerp_(centre.to(moved.dtype), scale.div_(self._pull).add_(1).reciprocal_())
        parameter.copy_(moved)


def _rule(optimiser: Optimiser, coefficient: float) -> _Rule:
    if isinstance(optimiser, Sgd):
        return _SgdRule(optimiser, coefficient)
    return _AdamWRule(optimiser, coefficient)


class _Step:
    """One step of every parameter that is trained, during and after backpropagation."""

    def __init__(self, model: nn.Module, rule: _Rule, centre: Mapping[str, Tensor]) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._rule = rule
        self._centre = centre
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
        self._rule.move(name, self._parameters[name], gradient, self._centre.get(name))


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
