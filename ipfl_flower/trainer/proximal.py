"""Proximal training: the local step of mechanism.md §6, a pure function on a model and data.

    θ ← argmin L(θ) + κ ‖θ − θ̄‖²

by SGD on L, with the quadratic term solved exactly after each step. Adding its gradient 2κ(θ − θ̄)
to that of the loss would do for small κ alone: explicit steps of size lr overshoot from κ·lr ≥ ½
and diverge from κ·lr ≥ 1, and κ = λ/(2η_i) of the paper has no such bound. The exact step

    θ ← (θ' + 2 h κ θ̄) / (1 + 2 h κ)

is stable for every κ. h is the effective step, lr / (1 − momentum): a steady gradient g moves SGD
with momentum by lr·g/(1 − momentum) a step, and with h = lr it would outweigh the quadratic term by
that factor and the fixed point would not be the minimum.

SGD is written out: making a ``torch.optim.SGD`` imports torch's compiler, 1.5 CPU seconds, and
Flower starts a process a message.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

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
        The prox-centre θ̄: a tensor for each parameter, by name. None: L alone is minimised.
    coefficient
        κ ≥ 0 of κ ‖θ − θ̄‖².

    Returns
    -------
    float
        Mean of the loss L over the steps, not finite if training diverged.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    velocities = {name: torch.zeros_like(p) for name, p in trained.items()}
    pull = 2 * coefficient * sgd.learning_rate / (1 - sgd.momentum)
    total = torch.zeros((), device=data.labels.device)
    steps = sgd.steps(len(data))
    model.train()
    for step, rows in enumerate(_batches(len(data), sgd.batch_size, steps)):
        progress.report(step, steps)
        value = loss(model(data.inputs[rows]), data.labels[rows])
        gradients = torch.autograd.grad(value, list(trained.values()), materialize_grads=True)
        total += value.detach()
        with torch.no_grad():
            for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
                velocity = velocities[name].mul_(sgd.momentum).add_(gradient)
                velocity.add_(parameter, alpha=sgd.weight_decay)
                parameter.sub_(velocity, alpha=sgd.learning_rate)
                if centre is not None:
                    parameter.lerp_(centre[name], pull / (1 + pull))
    return float(total) / steps


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
