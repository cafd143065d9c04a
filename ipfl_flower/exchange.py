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

# How often the list of nodes is read, to see who went and who came back.
NODES_EVERY_S = 2.0
# Flower's error code for "the node is offline", in a reply that the SuperLink itself makes.
NODE_UNAVAILABLE = 5
# Codes for what befell a message, not what the institution said: lost on the way, or its process
# was killed. Asked again it may go well.
PASSING = frozenset({3, 4, 8})
ATTEMPTS_MAX = 3


@dataclass(frozen=True)
class Clock:
    """Where time comes from; tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Waiting:
    """A node that has not answered: its messages, when it connected, since when it is away."""

    activated: str
    message_ids: list[str] = field(default_factory=list)
    away_since: float | None = None
    attempts: int = 1


@dataclass
class Exchange:
    """The messages of one leg of a round.

    A node that goes offline has not failed: what it had answered is still with Flower, and what it
    had not, it is asked again when it is back.

    Parameters
    ----------
    grid : Grid
    deadline_s : float
        Seconds after which no reply is waited for.
    absence_s : float
        Seconds after which a node that went offline is not waited for.
    poll_s : float
        Pause between two looks when nothing came.
    remake : callable
        Builds the message for a node id once more; None: it is not to be asked again.
    clock : Clock
    """

    grid: Grid
    deadline_s: float
    absence_s: float
    poll_s: float
    remake: Callable[[int], Message | None]
    clock: Clock
    _node_of: dict[str, int] = field(default_factory=dict)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)

    def send(self, messages: Iterable[Message]) -> list[int]:
        """Push `messages`, one at a time.

        Returns
        -------
        list of int
            The nodes whose message Flower did not take: they are not registered any more.
        """
        activated = {node.node_id: node.last_activated_at for node in self.grid.get_nodes()}
        refused = []
        for message in messages:
            node = message.metadata.dst_node_id
            self._waiting[node] = _Waiting(activated.get(node, ""))
            if not self._push(message):
                del self._waiting[node]
                refused.append(node)
        return refused

    def replies(self) -> Iterator[Message]:
        """Yield the first reply of each node, until all have answered or the deadline passes."""
        end = self.clock.monotonic() + self.deadline_s
        nodes_read = self.clock.monotonic()
        while self._waiting and self.clock.monotonic() < end:
            reply = self._next()
            if reply is not None:
                yield reply
                continue
            if self.clock.monotonic() - nodes_read >= NODES_EVERY_S:
                self._look_who_is_back()
                nodes_read = self.clock.monotonic()
            self.clock.sleep(self.poll_s)

    def node(self, reply: Message) -> int | None:
        """Return the node that `reply` answers for: an error of Flower's own names no node."""
        return self._node_of.get(reply.metadata.reply_to_message_id)

    def _push(self, message: Message) -> bool:
        node = message.metadata.dst_node_id
        (message_id,) = self.grid.push_messages([message])
        if not message_id:
            return False
        self._node_of[message_id] = node
        self._waiting[node].message_ids.append(message_id)
        return True

    def _next(self) -> Message | None:
        """Look once at every node that is there; return the first reply that came, if any."""
        for node, waiting in list(self._waiting.items()):
            for message_id in list(waiting.message_ids):
                if waiting.away_since is not None:
                    break
                for reply in self.grid.pull_messages([message_id]):
                    if reply.metadata.reply_to_message_id != message_id:
                        continue  # of an earlier round: it neither counts nor ends the wait
                    if reply.has_error() and reply.error.code == NODE_UNAVAILABLE:
                        waiting.away_since = self.clock.monotonic()
                    elif self._is_passing(reply, waiting) and self._ask_again(node):
                        waiting.message_ids.remove(message_id)
                        waiting.attempts += 1
                    else:
                        del self._waiting[node]
                        return reply
        return None

    def _is_passing(self, reply: Message, waiting: _Waiting) -> bool:
        passing = reply.has_error() and reply.error.code in PASSING
        return passing and waiting.attempts < ATTEMPTS_MAX

    def _ask_again(self, node: int) -> bool:
        message = self.remake(node)
        return message is not None and self._push(message)

    def _look_who_is_back(self) -> None:
        """Ask again who restarted, for a message is delivered once; give up who stays away."""
        nodes = {node.node_id: node for node in self.grid.get_nodes()}
        for number, waiting in list(self._waiting.items()):
            node = nodes.get(number)
            if node is not None and node.status == "online":
                waiting.away_since = None
                if node.last_activated_at != waiting.activated:
                    waiting.activated = node.last_activated_at
                    self._ask_again(number)
            elif waiting.away_since is None:
                waiting.away_since = self.clock.monotonic()
            elif self.clock.monotonic() - waiting.away_since > self.absence_s:
                del self._waiting[number]
