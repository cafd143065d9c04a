"""Messages out, replies in: our own loop over Flower's Grid, with a deadline and no fixed sleep.

Flower's ``send_and_receive`` holds every message of a round in memory, pauses three seconds
between two looks and loses the message of a SuperNode that restarts. This loop pushes and pulls
one institution at a time, pauses only when nothing came, and sends again to a node that restarted.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

# How often the list of nodes is read to see whether one of them restarted.
NODES_EVERY_S = 2.0


class ExchangeError(RuntimeError):
    """A message could not be handed to Flower."""


@dataclass(frozen=True)
class Clock:
    """Where time comes from; tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Exchange:
    """The messages of one leg of a round.

    Parameters
    ----------
    grid : Grid
    deadline_s : float
        Seconds after which no reply is waited for.
    poll_s : float
        Pause between two looks when nothing came.
    remake : callable
        Builds the message for a node id once more, for a node that restarted; None: not needed.
    clock : Clock
    """

    grid: Grid
    deadline_s: float
    poll_s: float
    remake: Callable[[int], Message | None]
    clock: Clock
    _asked: dict[str, int] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _activated: dict[int, str] = field(default_factory=dict)

    def send(self, messages: Iterable[Message]) -> None:
        """Push `messages`, one at a time.

        Raises
        ------
        ExchangeError
            If Flower takes one of them not.
        """
        self._activated = {node.node_id: node.last_activated_at for node in self.grid.get_nodes()}
        for message in messages:
            self._push(message)

    def replies(self) -> Iterator[Message]:
        """Yield the first reply of each node, until all have answered or the deadline passes."""
        end = self.clock.monotonic() + self.deadline_s
        nodes_read = self.clock.monotonic()
        while self._waiting and self.clock.monotonic() < end:
            came = False
            for message_id in [key for key, node in self._asked.items() if node in self._waiting]:
                for reply in self.grid.pull_messages([message_id]):
                    node = self.node(reply)
                    if node in self._waiting:
                        self._waiting.remove(node)
                        came = True
                        yield reply
            if self.clock.monotonic() - nodes_read > NODES_EVERY_S:
                self._send_again_to_restarted()
                nodes_read = self.clock.monotonic()
            if not came:
                self.clock.sleep(self.poll_s)

    def node(self, reply: Message) -> int | None:
        """Return the node that `reply` answers for: an error of Flower's own names no node."""
        return self._asked.get(reply.metadata.reply_to_message_id)

    @property
    def waiting(self) -> frozenset[int]:
        """The nodes that have not answered yet."""
        return frozenset(self._waiting)

    def _push(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        ids = list(self.grid.push_messages([message]))
        if len(ids) != 1 or not ids[0]:
            raise ExchangeError(f"Flower did not take the message for node {node}")
        self._asked[ids[0]] = node
        self._waiting.add(node)

    def _send_again_to_restarted(self) -> None:
        """Send again to restarted nodes: a message is delivered once, they have lost theirs."""
        for node in self.grid.get_nodes():
            before = self._activated.get(node.node_id)
            if node.node_id in self._waiting and node.last_activated_at != before:
                self._activated[node.node_id] = node.last_activated_at
                message = self.remake(node.node_id)
                if message is not None:
                    self._push(message)
