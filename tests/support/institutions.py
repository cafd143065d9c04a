"""Institutions for tests of the server's side: NumPy instead of training, terms as given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Message

from ipfl_flower.market import Terms
from ipfl_flower.protocol import Reply, Request

SHAPES = {"layer.weight": (3, 4), "layer.bias": (4,)}


def theta0() -> dict[str, np.ndarray]:
    return {name: np.full(shape, 0.25, dtype=np.float32) for name, shape in sorted(SHAPES.items())}


@dataclass
class FakeInstitution:
    """Moves towards a direction of its own each round, as training on its data would.

    Who asks again gets the same model again: an institution keeps those of the rounds before (on
    `disk`, if its process is to die).
    """

    seed: int
    terms: Terms = field(default_factory=lambda: Terms(100, 0.05, 1e4))
    leaves_in_round: int | None = None
    spoil: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    disk: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    model: dict[str, np.ndarray] | None = None
    kept: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    sent: dict[int, list[dict[str, np.ndarray]]] = field(default_factory=dict)

    def __call__(self, message: Message) -> Message:
        request = Request.from_records(message.content)
        self.requests.append(request)
        self._restore(request.round)
        if request.role != "none":
            self.model = request.arrays
        arrays = {}
        leaving = request.round == self.leaves_in_round
        if request.train and not leaving:
            rng = np.random.default_rng((self.seed, request.round))
            group = np.random.default_rng(self.seed % 2)
            arrays = {
                name: value
                + group.normal(size=value.shape).astype(np.float32)
                + 0.1 * rng.normal(size=value.shape).astype(np.float32)
                for name, value in self.model.items()
            }
            self.model = self.kept[request.round] = arrays
            if self.disk is not None:
                np.savez(self.disk / f"{request.round}.npz", **arrays)
            if self.spoil is not None:
                arrays = self.spoil(arrays)
            self.sent.setdefault(request.round, []).append(arrays)
        reply = Reply(
            round=request.round,
            arrays=arrays,
            terms=self.terms,
            leaving=leaving,
            metrics={"test_accuracy": 0.5 + 0.01 * request.round, **self.metrics},
        )
        return Message(reply.to_records(), reply_to=message)

    def _restore(self, number: int) -> None:
        """Take the model of the newest round before this one."""
        if self.disk is not None and (file := self.disk / f"{number - 1}.npz").exists():
            with np.load(file) as stored:
                self.kept[number - 1] = {name: stored[name] for name in stored.files}
        earlier = [known for known in self.kept if known < number]
        if earlier:
            self.model = self.kept[max(earlier)]
