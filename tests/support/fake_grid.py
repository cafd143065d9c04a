"""An in-process Flower Grid around handlers, with faults from a seed and a clock of its own."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from ipfl_flower.exchange import Clock

Handler = Callable[[Message], Message | None]


@dataclass(frozen=True)
class Faults:
    """Chances, each in [0, 1], of what can happen to one reply.

    A stray reply belongs to a message of an earlier round and comes with the reply that was asked
    for. Flower itself hands out replies by the message that they answer.
    """

    seed: int = 0
    delay: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    stray: float = 0.0
    delay_max_s: float = 30.0


class FakeGrid(Grid):
    """Answers messages with `handlers`, by node name; replies come in an order from the seed.

    A handler that returns None has lost its message. `made` counts the faults, by kind.

    Time passes when the strategy sleeps, not otherwise: a deadline of ten minutes costs nothing.
    """

    def __init__(self, handlers: dict[str, Handler], faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.random = random.Random(self.faults.seed)
        self.now = 0.0
        self.clock = Clock(lambda: self.now, self._sleep)
        self.nodes = {
            1000 + i: NodeInfo(
                node_id=1000 + i,
                name=name,
                public_key=f"key of {name}".encode(),
                status="online",
                last_activated_at="2026-01-01T00:00:00Z",
            )
            for i, name in enumerate(handlers)
        }
        self.handlers = {1000 + i: handler for i, handler in enumerate(handlers.values())}
        self.sent: list[Message] = []
        self.pushes = 0
        self.made: Counter[str] = Counter()
        self._sent_by_id: dict[str, Message] = {}
        self._ready: list[tuple[float, Message]] = []
        self._plans: list[tuple[float, Callable[[], None]]] = []

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [plan for plan in self._plans if plan[0] <= self.now]
        for plan in due:
            self._plans.remove(plan)
            plan[1]()

    def node(self, name: str) -> NodeInfo:
        return next(node for node in self.nodes.values() if node.name == name)

    def go_offline(self, name: str) -> None:
        """Let a node vanish: pulling its reply, given or not, says that it is unavailable."""
        self.node(name).status = "offline"

    def come_back(self, name: str) -> None:
        """Let a node connect anew: messages that it had not answered are lost."""
        node = self.node(name)
        node.status, node.last_activated_at = "online", f"activated at {self.now}"

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do `what` when the clock reaches `when`."""
        self._plans.append((when, what))

    def get_nodes(self) -> Iterable[NodeInfo]:
        return list(self.nodes.values())

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self.nodes:
                ids.append("")  # as the SuperLink does for a node that is not registered
                continue
            self.pushes += 1
            # A resent message is a new one even where its content is the same.
            message.metadata.__dict__["_message_id"] = f"m{self.pushes}"
            message.metadata.__dict__["_src_node_id"] = 1
            self.sent.append(message)
            self._sent_by_id[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
            if self.nodes[message.metadata.dst_node_id].status == "online":
                self._answer(message)
        return ids

    def _answer(self, message: Message) -> None:
        try:
            reply = self.handlers[message.metadata.dst_node_id](message)
        except Exception as error:  # noqa: BLE001 - as Flower does: any error becomes a reply
            reason = f"{type(error)}:<'{error}'>"
            reply = Message(Error(code=2, reason=reason), reply_to=message)
        if reply is None:
            return
        chance = self.random.random
        if chance() < self.faults.corrupt and not reply.has_error():
            self.made["corrupt"] += 1
            reply = corrupted(reply, message, self.random)
        copies = 1
        if chance() < self.faults.duplicate:
            self.made["duplicate"] += 1
            copies = 2
        for _ in range(copies):
            late = 0.0
            if chance() < self.faults.delay:
                self.made["delay"] += 1
                late = self.random.uniform(0, self.faults.delay_max_s)
            if chance() < self.faults.drop:
                self.made["drop"] += 1
            else:
                self._ready.append((self.now + late, reply))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = [self._sent_by_id[message_id] for message_id in message_ids]
        unavailable = [
            Message(Error(code=5, reason="Node unavailable"), reply_to=message)
            for message in wanted
            if self.nodes[message.metadata.dst_node_id].status != "online"
        ]
        if unavailable:
            return unavailable
        due = [item for item in self._ready if item[0] <= self.now]
        ids = {message.metadata.message_id for message in wanted}
        taken = [item for item in due if item[1].metadata.reply_to_message_id in ids]
        if self.faults.stray and self.random.random() < self.faults.stray:
            groups = {message.metadata.group_id for message in wanted}
            strays = [item for item in due if self._group(item[1]) not in groups]
            self.made["stray"] += len(strays)
            taken += strays
        for item in taken:
            self._ready.remove(item)
        replies = [reply for _, reply in taken]
        self.random.shuffle(replies)
        return replies

    def _group(self, reply: Message) -> str:
        return self._sent_by_id[reply.metadata.reply_to_message_id].metadata.group_id

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("Flower's fixed sleep is never used")


def corrupted(reply: Message, request: Message, rng: random.Random) -> Message:
    """Damage a reply in one of the ways that the network, a bug or an enemy can."""
    if reply.has_error():
        return reply
    content = reply.content.copy()
    arrays = content.array_records.get("arrays")
    names = list(arrays) if arrays else []
    kind = rng.choice(["nan", "shape", "missing", "bytes", "field", "terms", "round", "error"])
    if kind == "error":
        return Message(Error(code=2, reason="torn apart"), reply_to=request)
    if kind in ("field", "terms", "round"):
        config = dict(content.config_records["config"])
        if kind == "field":
            del config[rng.choice(sorted(config))]
        elif kind == "terms":
            config["cost"] = -1.0
        else:
            config["round"] += 1
        content["config"] = type(content.config_records["config"])(config)
    elif names:
        victim = rng.choice(names)
        damaged = dict(arrays)
        values = np.array(damaged[victim].numpy())
        if kind == "missing":
            del damaged[victim]
        elif kind == "shape":
            damaged[victim] = Array(np.append(values.ravel(), values.dtype.type(0)))
        elif kind == "nan":
            damaged[victim] = Array(np.full_like(values, np.nan))
        else:
            whole = damaged[victim]
            damaged[victim] = Array(
                dtype=whole.dtype, shape=whole.shape, stype=whole.stype, data=whole.data[:-1]
            )
        content["arrays"] = ArrayRecord(damaged)
    return Message(content, reply_to=request)
