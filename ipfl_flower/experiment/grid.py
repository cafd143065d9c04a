"""A Flower Grid in this process: real messages, and a function in place of each SuperNode."""

import itertools
import pickle
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, Never, TypeAlias

from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

Handler: TypeAlias = Callable[[Message], Message]

# Flower's code for "the ClientApp raised an exception".
_CLIENT_APP_RAISED = 2
_SUPERLINK = 1


class LocalGrid(Grid):
    """Answers each message with its institution's handler, as the reply is pulled.

    So one institution trains at a time, and no more models are in memory than a pull asks for; what
    was pushed waits in a file. An exception becomes an error reply, as in Flower.

    Parameters
    ----------
    handlers : mapping of str to Handler
        By institution's name. Ids in the ledger follow this order.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        # A process that makes messages is one of a run's tasks: Flower says so to its own.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _SUPERLINK
        self._handlers = dict(enumerate(handlers.values(), start=_SUPERLINK + 1))
        self._nodes = [
            NodeInfo(
                node_id=node,
                name=name,
                # Institutions are enrolled in the order of their keys.
                public_key=f"{position:08d}".encode(),
                status="online",
                last_activated_at="2026-01-01T00:00:00Z",
            )
            for position, (node, name) in enumerate(zip(self._handlers, handlers, strict=True))
        ]
        self._numbers = itertools.count(1)
        # Closed, and thereby gone, as each is answered.
        self._waiting: dict[str, tuple[Handler, IO[bytes]]] = {}

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all institutions: they are always there."""
        return list(self._nodes)

    def get_node_ids(self) -> Iterable[int]:
        """Return their node ids, in the order of the handlers."""
        return list(self._handlers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep each message for its node; return their ids, "" for a node that there isn't."""
        return [self._kept(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer some messages, and return the replies; each is delivered once."""
        wanted = [message_id for message_id in message_ids if message_id in self._waiting]
        return [self._answered(*self._waiting.pop(message_id)) for message_id in wanted]

    def _kept(self, message: Message) -> str:
        handler = self._handlers.get(message.metadata.dst_node_id)
        if handler is None:
            return ""
        message_id = f"message-{next(self._numbers)}"
        # What the SuperLink fills in.
        message.metadata.__dict__["_message_id"] = message_id
        message.metadata.__dict__["_src_node_id"] = _SUPERLINK
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open until it is answered
        pickle.dump(message, file, protocol=5)
        self._waiting[message_id] = handler, file
        return message_id

    def _answered(self, handler: Handler, file: IO[bytes]) -> Message:
        with file:
            file.seek(0)
            message: Message = pickle.load(file)  # noqa: S301 - we wrote it, and it has no name
        try:
            return handler(message)
        except Exception as error:  # noqa: BLE001 - any error of a ClientApp becomes a reply
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)

    def set_run(self, run: Any) -> Never:
        """Refuse: there is no Flower run."""
        raise NotImplementedError

    @property
    def run(self) -> Never:
        """Refuse: there is no Flower run."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Never:
        """Refuse: messages are made with `Message`."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: Any = None) -> Never:
        """Refuse: push and pull."""
        raise NotImplementedError
