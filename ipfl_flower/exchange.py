"""Messages out, replies in: our own loop over Flower's Grid, with a deadline and no fixed sleep.

Flower's ``send_and_receive`` holds every message of a round in memory, pauses three seconds
between two looks and loses the message of a SuperNode that restarts. This loop pushes one
institution at a time, pulls as many replies at once as little memory holds, pauses only when
nothing came, and sends again to a node that restarted.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

T = TypeVar("T")

# How often the list of nodes is read, to see who went and who came back.
NODES_EVERY_S = 2.0
# Flower's error code for "the node is offline", in a reply that the SuperLink itself makes.
NODE_UNAVAILABLE = 5
# Codes for what befell a message, not what the institution said: lost on the way, or its process
# was killed. Asked again it may go well.
PASSING = frozenset({3, 4, 8})
ATTEMPTS_MAX = 3
# Flower reads a pull's replies into memory together: this many bytes of models may come at once,
# and one model always.
PULL_BYTES = 2**25
PULL_IDS_MAX = 100
# The SuperLink is one process and answers SuperNodes in it, too; a pull writes to its database.
PULLS_PER_S_MAX = 10
# While the SuperLink deletes a large model that was delivered, its SQLite is locked for longer than
# it waits ("database is locked"), and it answers with an internal error. It is asked again.
FAILING_S_MAX = 30.0
FAILING_PAUSE_S = 1.0


@dataclass(frozen=True)
class Clock:
    """Where time comes from; tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def batches(message_ids: Sequence[str], model_bytes: int) -> list[tuple[str, ...]]:
    """Divide message ids into pulls, by what their replies may take in memory."""
    count = min(max(1, PULL_BYTES // max(model_bytes, 1)), PULL_IDS_MAX)
    return [tuple(message_ids[k : k + count]) for k in range(0, len(message_ids), count)]


def pause_s(poll_s: float, pulls: int) -> float:
    """Return the pause after a look of so many pulls, seconds: it leaves the SuperLink room."""
    return max(poll_s, pulls / PULLS_PER_S_MAX)


def is_passing(error: Exception) -> bool:
    """Tell whether the SuperLink failed within: it may answer when it is asked again."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    # Of an object that the SuperLink could not store; the class is Flower's own affair.
    return type(error).__name__ == "ObjectPushError"


def insistently(ask: Callable[[], T], clock: Clock) -> T:
    """Ask the SuperLink until it answers.

    Raises
    ------
    Exception
        The SuperLink's error, when it refuses or has failed for `FAILING_S_MAX` seconds.
    """
    end = clock.monotonic() + FAILING_S_MAX
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_passing(error) or clock.monotonic() > end:
                raise
        clock.sleep(FAILING_PAUSE_S)


@dataclass
class _Waiting:
    """A node that has not answered.

    Attributes
    ----------
    activated : str
        When it connected, as Flower writes it.
    message_ids : list of str
        What it was asked.
    away_since : float or None
        Since when it is offline.
    attempts : int
        How often it was asked because something befell the message.
    reply_lost : bool
        Whether a pull of its reply failed within the SuperLink, which may have taken the reply for
        delivered by then, and doesn't deliver twice; and a pull of it alone brought nothing.
    losses : int
        How often it was asked because of that.
    """

    activated: str
    message_ids: list[str] = field(default_factory=list)
    away_since: float | None = None
    attempts: int = 1
    reply_lost: bool = False
    losses: int = 0


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
        Pause between two looks when nothing came; longer when a look takes many pulls.
    model_bytes : int
        Size of a model.
    remake : callable
        Builds the message for a node id once more; None: it is not to be asked again.
    clock : Clock
    on_sent : callable
        Told the node and the id of each message that Flower took.
    """

    grid: Grid
    deadline_s: float
    absence_s: float
    poll_s: float
    model_bytes: int
    remake: Callable[[int], Message | None]
    clock: Clock
    on_sent: Callable[[int, str], None] = lambda node, message_id: None  # noqa: ARG005
    _node_of: dict[str, int] = field(default_factory=dict)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _failing_since: dict[str, float] = field(default_factory=dict)
    # Of a pull that failed: each is pulled alone, before it counts as lost.
    _suspects: set[str] = field(default_factory=set)

    def send(self, messages: Iterable[Message]) -> list[int]:
        """Push `messages`, one at a time.

        Returns
        -------
        list of int
            The nodes whose message Flower did not take: they are not registered any more.

        Raises
        ------
        httpx.HTTPStatusError
            If the SuperLink answers with nothing but errors for `FAILING_S_MAX` seconds.
        """
        nodes = insistently(self.grid.get_nodes, self.clock)
        activated = {node.node_id: node.last_activated_at for node in nodes}
        refused = []
        for message in messages:
            node = message.metadata.dst_node_id
            self._waiting[node] = _Waiting(activated.get(node, ""))
            if not self._push(message):
                del self._waiting[node]
                refused.append(node)
            del message  # its model, before the next one is made
        return refused

    def replies(self) -> Iterator[Message]:
        """Yield the first reply of each node, until all have answered or the deadline passes.

        There is a last look after the deadline, for what came since the one before.

        Raises
        ------
        httpx.HTTPStatusError
            If the SuperLink answers with nothing but errors for `FAILING_S_MAX` seconds.
        """
        end = self.clock.monotonic() + self.deadline_s
        nodes_read = self.clock.monotonic()
        while self._waiting:
            over = self.clock.monotonic() >= end
            pulls = self._pulls()
            came = False
            for message_ids in pulls:
                for reply in self._pull(message_ids):
                    came = True
                    yield reply
            if over:
                return
            if came:
                continue
            if self.clock.monotonic() - nodes_read >= NODES_EVERY_S:
                self._look_who_is_back()
                nodes_read = self.clock.monotonic()
            left_s = max(0.0, end - self.clock.monotonic())
            self.clock.sleep(min(pause_s(self.poll_s, len(pulls)), left_s))

    def node(self, reply: Message) -> int | None:
        """Return the node that `reply` answers for: an error of Flower's own names no node."""
        return self._node_of.get(reply.metadata.reply_to_message_id)

    def _push(self, message: Message) -> bool:
        """Push a message; the same one where that failed: Flower takes what is missing of it."""
        node = message.metadata.dst_node_id
        (message_id,) = insistently(partial(self.grid.push_messages, [message]), self.clock)
        if not message_id:
            return False
        self._node_of[message_id] = node
        self._waiting[node].message_ids.append(message_id)
        self.on_sent(node, message_id)
        return True

    def _awaited(self) -> list[str]:
        """Return the ids of the messages that nodes which are there have not answered."""
        here = (waiting for waiting in self._waiting.values() if waiting.away_since is None)
        return [message_id for waiting in here for message_id in waiting.message_ids]

    def _pulls(self) -> list[tuple[str, ...]]:
        """Divide what is awaited into pulls: what was in one that failed alone, and first."""
        awaited = self._awaited()
        alone = [(message_id,) for message_id in awaited if message_id in self._suspects]
        others = [message_id for message_id in awaited if message_id not in self._suspects]
        return [*alone, *batches(others, self.model_bytes)]

    def _pull(self, message_ids: Sequence[str]) -> Iterator[Message]:
        """Look once for replies to some messages; yield the first of each node, in our order."""
        place = {message_id: k for k, message_id in enumerate(message_ids)}
        replies = [
            reply
            for reply in self._pulled(message_ids)
            if reply.metadata.reply_to_message_id in place
        ]
        replies.sort(key=lambda reply: place[reply.metadata.reply_to_message_id])
        for reply in replies:
            message_id = reply.metadata.reply_to_message_id
            node = self._node_of[message_id]
            waiting = self._waiting.get(node)
            if waiting is None:
                continue  # its second answer
            if reply.has_error() and reply.error.code == NODE_UNAVAILABLE:
                if waiting.away_since is None:
                    waiting.away_since = self.clock.monotonic()
            elif self._is_passing(reply, waiting) and self._ask_again(node):
                waiting.message_ids.remove(message_id)
                waiting.attempts += 1
            else:
                del self._waiting[node]
                yield reply

    def _pulled(self, message_ids: Sequence[str]) -> Iterable[Message]:
        """Pull, and note whose reply may be lost: pulled alone, it failed again or wasn't there."""
        suspected = self._suspects.intersection(message_ids)
        replies = self._asked("pull", partial(self.grid.pull_messages, message_ids))
        if replies is None:
            self._suspects.update(message_ids)
            lost = list(message_ids) if len(message_ids) == 1 else []
        else:
            replies = list(replies)
            self._suspects -= suspected
            came = {reply.metadata.reply_to_message_id for reply in replies}
            lost = list(suspected - came)
        for message_id in lost:
            if (waiting := self._waiting.get(self._node_of[message_id])) is not None:
                waiting.reply_lost = True
        return replies or ()

    def _asked(self, what: str, ask: Callable[[], Iterable[T]]) -> Iterable[T] | None:
        """Ask the SuperLink something; None: it failed within, and is asked again later."""
        try:
            answer = ask()
        except Exception as error:
            now = self.clock.monotonic()
            since = self._failing_since.setdefault(what, now)
            if not is_passing(error) or now - since > FAILING_S_MAX:
                raise
            return None
        self._failing_since.pop(what, None)
        return answer

    def _is_passing(self, reply: Message, waiting: _Waiting) -> bool:
        passing = reply.has_error() and reply.error.code in PASSING
        return passing and waiting.attempts < ATTEMPTS_MAX

    def _ask_again(self, node: int) -> bool:
        message = self.remake(node)
        return message is not None and self._push(message)

    def _look_who_is_back(self) -> None:
        """Ask again who restarted, for a message is delivered once; give up who stays away.

        So is a reply: who may have given one that was lost is asked again, too. An institution
        answers from its disk what it has trained already.
        """
        found = self._asked("nodes", self.grid.get_nodes)
        if found is None:
            return
        nodes = {node.node_id: node for node in found}
        for number, waiting in list(self._waiting.items()):
            node = nodes.get(number)
            if node is not None and node.status == "online":
                waiting.away_since = None
                restarted = node.last_activated_at != waiting.activated
                lost = waiting.reply_lost and waiting.losses < ATTEMPTS_MAX
                waiting.activated, waiting.reply_lost = node.last_activated_at, False
                waiting.losses += lost
                if restarted or lost:
                    self._ask_again(number)
            elif waiting.away_since is None:
                waiting.away_since = self.clock.monotonic()
            elif self.clock.monotonic() - waiting.away_since > self.absence_s:
                del self._waiting[number]
