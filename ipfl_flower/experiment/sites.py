"""Institutions behind the Grid: as the market asks them, and as a method that is compared does.

Both travel as the market's own requests and replies. A market's institution is the real trainer;
for a method it is a site that trains from the model it is sent and judges what it is sent.

An attacker's own model is its honest one in both: only what it sends is altered. A method knows
what was sent alone, so where it names that as the start of a training or as what is judged, it
means the sender's own model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from flwr.app import Message, MessageType
from numpy.typing import NDArray

from ipfl_flower.experiment.attacks import ATTACKS
from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.grid import Handler, LocalGrid
from ipfl_flower.experiment.methods.base import Judgement, Matrix, Order, Vector
from ipfl_flower.experiment.world import World
from ipfl_flower.market import Terms
from ipfl_flower.models import Layout
from ipfl_flower.protocol import METRICS_MAX, ProtocolError, Reply, Request
from ipfl_flower.trainer import FitRequest, Trainer
from ipfl_flower.trainer.learner import Learner, Scores

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Alter: TypeAlias = Callable[[Arrays, int], Arrays]

START, CENTRE, JUDGED = "start", "centre", "judged"
TTL_S: Final = 3600.0
# Four figures a model.
_JUDGED_AT_ONCE: Final = METRICS_MAX // len(Judgement.__dataclass_fields__)


def market_handler(trainer: Trainer, alter: Alter) -> Handler:
    """Return what answers the market for `trainer`, as its client app does (`client_app`)."""

    def answer(message: Message) -> Message:
        request = Request.from_records(message.content)
        fitted = trainer.fit(
            FitRequest(
                round=request.round,
                centre=request.arrays if request.role == "centre" else None,
                initial=request.arrays if request.role == "initial" else None,
                coefficient=request.coefficient,
                start=request.start,
                train=request.train,
                receipt=request.statement,
            )
        )
        arrays = alter(fitted.arrays, request.round) if fitted.arrays else {}
        reply = Reply(request.round, arrays, fitted.terms, fitted.leaving, fitted.metrics)
        return Message(reply.to_records(), reply_to=message)

    return answer


def site_handler(learner: Learner, terms: Terms) -> Handler:
    """Return what answers a method: trains from the model that it is sent, or judges models.

    What it trained is answered as it is: `GridSites` keeps it, and alters what an attacker sends.
    """
    learner.renew()

    def answer(message: Message) -> Message:
        request = Request.from_records(message.content)
        arrays: Arrays = {}
        metrics: dict[str, float] = {}
        if request.train:
            learner.put(_checked(learner, _part(request.arrays, START)))
            centre = _part(request.arrays, CENTRE) or None
            loss = learner.train(
                round_number=request.round,
                centre=None if centre is None else _checked(learner, centre),
                coefficient=request.coefficient,
            )
            arrays, metrics = learner.arrays(), {"train_loss": loss}
        else:
            for k in range(_JUDGED_AT_ONCE):
                if not (model := _part(request.arrays, f"{JUDGED}{k}")):
                    break
                learner.put(_checked(learner, model))
                if (scores := learner.scores()) is not None:
                    metrics |= scores.named(f"{k}_")
        reply = Reply(request.round, arrays, terms, leaving=False, metrics=metrics)
        return Message(reply.to_records(), reply_to=message)

    return answer


def alteration(world: World, position: int) -> Alter:
    """Return what an institution does to a model before it is sent: nothing, unless it attacks.

    Raises
    ------
    ExperimentError
        There is no such attack.
    """
    seat, layout = world.setting.seats[position], world.layout
    if seat.attack is None:
        return lambda arrays, _: arrays
    if seat.attack not in ATTACKS:
        raise ExperimentError(
            f"setting {world.setting.name}: attack {seat.attack!r} of {seat.name} is not known: "
            f"choose from {', '.join(sorted(ATTACKS))}"
        )
    attack, seed = ATTACKS[seat.attack], world.setting.seed

    def alter(arrays: Arrays, number: int) -> Arrays:
        rng = np.random.default_rng([seed, position, number])
        return as_arrays(layout, attack(as_vector(layout, arrays), rng))

    return alter


def as_vector(layout: Layout, arrays: Arrays) -> Vector:
    """Return a model as one vector, (D,)."""
    return layout.flatten(arrays).view(np.float32)


def as_arrays(layout: Layout, vector: Vector) -> Arrays:
    """Return a vector as a model's tensors, which share its memory."""
    return layout.restore(np.ascontiguousarray(vector, np.float32).view(np.uint8))


class GridSites:
    """The institutions of a world, as a method sees them: `methods.base.Sites` over the Grid.

    Attributes
    ----------
    samples : int64 (m,)
        As reported.
    initial : float32 (D,)
        θ⁰.
    groups : tuple
    truth : int64 (m,)
        The hidden group of each, and the samples that it has: only the oracle may look at these.
    looks : int
        How many models the institution that was asked most often has judged.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        learners, terms = world.learners, world.terms
        self._grid = LocalGrid(
            {
                seat.name: site_handler(learners[i], terms[i])
                for i, seat in enumerate(world.setting.seats)
            }
        )
        self._nodes = list(self._grid.get_node_ids())
        self.samples: NDArray[np.int64] = np.array([t.samples for t in terms], np.int64)
        self.initial: Vector = as_vector(world.layout, world.initial)
        self.groups = tuple(seat.group for seat in world.setting.seats)
        self.truth: NDArray[np.int64] = np.array([t.samples for t in world.truth], np.int64)
        self._alter = {
            i: alteration(world, i) for i, seat in enumerate(world.setting.seats) if seat.attack
        }
        self.looks = 0
        self._looked = [0] * len(terms)
        # Of attackers: what each sent last, and the model that it has.
        self._sent: dict[int, tuple[Vector, Vector]] = {}

    def train(self, number: int, orders: Sequence[Order], *, sent: bool = True) -> Matrix:
        """Let every institution train for one round's steps; see `methods.base.Sites`.

        Raises
        ------
        ExperimentError
            An institution could not train; says which and why.
        """
        models = np.empty((len(self._nodes), self._world.layout.size), np.float32)
        for i, order in enumerate(orders):
            arrays = self._named(START, self._meant(i, order.start))
            if order.centre is not None:
                arrays |= self._named(CENTRE, order.centre)
            reply = self._ask(i, number, arrays, order.coefficient)
            models[i] = as_vector(self._world.layout, reply.arrays)
            if sent and i in self._alter:
                own = models[i].copy()
                altered = self._alter[i](as_arrays(self._world.layout, own), number)
                models[i] = as_vector(self._world.layout, altered)
                self._sent[i] = models[i].copy(), own
        return models

    def _meant(self, position: int, model: Vector) -> Vector:
        """Return the model that an institution has, where `model` is what it sent for it."""
        if position in self._sent:
            sent, own = self._sent[position]
            if np.array_equal(model, sent):
                return own
        return model

    def judge(self, models: Sequence[Sequence[Vector]]) -> list[list[Judgement]]:
        """Let each institution judge models on its own data; see `methods.base.Sites`.

        A model without a finite loss is judged to be right never, with an infinite loss.
        """
        for i, mine in enumerate(models):
            self._looked[i] += len(mine)
        self.looks = max(self._looked)
        return [self._judged(i, mine) for i, mine in enumerate(models)]

    def _judged(self, position: int, models: Sequence[Vector]) -> list[Judgement]:
        judged: list[Judgement] = []
        for first in range(0, len(models), _JUDGED_AT_ONCE):
            part = models[first : first + _JUDGED_AT_ONCE]
            arrays: dict[str, NDArray[Any]] = {}
            for k, model in enumerate(part):
                arrays |= self._named(f"{JUDGED}{k}", self._meant(position, model))
            metrics = self._ask(position, 0, arrays, None).metrics
            judged += [_judgement(metrics, f"{k}_") for k in range(len(part))]
        return judged

    def _named(self, prefix: str, model: Vector) -> dict[str, NDArray[Any]]:
        arrays = as_arrays(self._world.layout, model)
        return {f"{prefix}/{name}": array for name, array in arrays.items()}

    def _ask(self, position: int, number: int, arrays: Arrays, coefficient: float | None) -> Reply:
        """Ask one institution to train, or without a coefficient to judge."""
        train = coefficient is not None
        request = Request(
            round=number,
            train=train,
            role="centre",
            arrays=arrays,
            coefficient=coefficient or 0.0,
            start="own",
        )
        message = Message(
            content=request.to_records(),
            dst_node_id=self._nodes[position],
            message_type=MessageType.TRAIN if train else MessageType.EVALUATE,
            ttl=TTL_S,
            group_id=str(number),
        )
        (answer,) = self._grid.pull_messages(self._grid.push_messages([message]))
        try:
            return Reply.from_message(answer, round_number=number)
        except ProtocolError as error:
            seat = self._world.setting.seats[position]
            raise ExperimentError(f"round {number}: {seat.name}: {error}") from error


def _part(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    start = f"{prefix}/"
    return {n.removeprefix(start): array for n, array in arrays.items() if n.startswith(start)}


def _checked(learner: Learner, arrays: Arrays) -> Arrays:
    learner.check(arrays)
    return arrays


def _judgement(metrics: Mapping[str, float], prefix: str) -> Judgement:
    names = Scores.__dataclass_fields__
    if f"{prefix}test_loss" not in metrics:
        return Judgement(0.0, np.inf, 0.0, np.inf)
    return Judgement(**{name: metrics[prefix + name] for name in names})
