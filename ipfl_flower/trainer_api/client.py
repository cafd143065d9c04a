"""A client of one trainer, for the bridge: waits for it, streams a model in and a model out."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api import trainer_pb2_grpc
from ipfl_flower.trainer_api.addresses import Address, Tls
from ipfl_flower.trainer_api.errors import (
    AddressError,
    TrainerRefusedError,
    TrainerUnreachableError,
    WireError,
)
from ipfl_flower.trainer_api.messages import Description, FitAnswer, FitCall, Progress, read_terms
from ipfl_flower.trainer_api.speaker import require_trainer, speaker
from ipfl_flower.trainer_api.tensors import Inbox, Outbox, read_layout

T = TypeVar("T")

# A header holds a name, a shape and a dtype a tensor, and one receipt.
MESSAGE_BYTES_MAX = 16 << 20
# A trainer that dies in a request is asked once more: what it had committed, it answers from disk.
TRIES_MAX = 2
PAUSE_S = 0.2

# What gRPC makes of a connection that can't be had, or that ends; a trainer answers with others.
_BROKEN_OFF = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
)

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A proxy for the web is none for the machine beside this one.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A trainer whose machine vanishes without a word is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class TrainerClient:
    """Asks one trainer; a context manager.

    Parameters
    ----------
    address : str
        ``unix:///absolute/path`` or ``host:port``.
    tls : Tls, optional
        Required unless the address is a Unix socket or on loopback.
    patience_s : float
        How long it is waited for a trainer that can't be reached, or that restarts.

    Raises
    ------
    AddressError
        The address is wrong, or it needs TLS and none is given.
    """

    def __init__(self, address: str, tls: Tls | None = None, *, patience_s: float = 60.0) -> None:
        self._address = Address.parse(address)
        self._patience_s = patience_s
        target = str(self._address)
        if tls is not None:
            ca, certificate, key = tls.read()
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
            self._channel = grpc.secure_channel(target, credentials, _OPTIONS)
        elif self._address.local:
            self._channel = grpc.insecure_channel(target, _OPTIONS)
        else:
            raise AddressError(
                f"the trainer at {target} is on another machine, which needs TLS: give a CA, a "
                "certificate and its key (trainer-ca, trainer-certificate and trainer-key in the "
                "SuperNode's node config)"
            )
        self._stub = trainer_pb2_grpc.TrainerStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a request in flight is given up."""
        self._channel.close()

    def describe(self, *, deadline_s: float = 60.0) -> Description:
        """Ask what the trainer is.

        Raises
        ------
        TrainerUnreachableError, TrainerRefusedError, IncompatibleError, WireError
        """
        request = pb.DescribeRequest(speaker=speaker())
        return Description.read(
            self._ask(
                lambda left_s, _: self._stub.Describe(request, timeout=left_s),
                deadline_s,
            )
        )

    def fit(
        self,
        call: FitCall,
        *,
        deadline_s: float,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> FitAnswer:
        """Have a round trained, or a delivery judged.

        Parameters
        ----------
        call : FitCall
        deadline_s : float
            When it is given up. The trainer finishes what it began, and answers from its disk when
            asked again.
        on_progress : callable, optional
            Told what the trainer tells, in this thread.

        Raises
        ------
        TrainerUnreachableError
            Nobody answers, the answer broke off twice, or the deadline passed.
        TrainerRefusedError
            The trainer says why it can't.
        IncompatibleError
            It speaks another protocol.
        WireError
            The answer is not what the protocol says.
        """

        def ask(left_s: float, heard: Callable[[], None]) -> FitAnswer:
            replies = self._stub.Fit(_requests(call), timeout=left_s, metadata=call.metadata())
            try:
                return _answer(replies, heard, on_progress)
            finally:
                replies.cancel()

        return self._ask(ask, deadline_s)

    def _ask(self, ask: Callable[[float, Callable[[], None]], T], deadline_s: float) -> T:
        """Ask until there is an answer, waiting for a trainer that isn't there yet."""
        end = time.monotonic() + deadline_s
        give_up = min(end, time.monotonic() + self._patience_s)
        tries = 1
        while True:
            heard: list[bool] = []
            try:
                return ask(end - time.monotonic(), lambda found=heard: found.append(True))  # type: ignore[misc]
            except grpc.RpcError as error:
                code, details = error.code(), _line(error.details())
                if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise TrainerUnreachableError(
                        f"the trainer at {self._address} did not answer within {deadline_s:g} s"
                    ) from error
                if code not in _BROKEN_OFF:
                    raise TrainerRefusedError(code, details) from error
                if heard:
                    tries += 1
                    give_up = min(end, time.monotonic() + self._patience_s)
                if time.monotonic() + PAUSE_S >= give_up or tries > TRIES_MAX:
                    raise TrainerUnreachableError(
                        f"the trainer at {self._address} can't be reached ({details}): start it "
                        f"there (ipfl trainer INSTITUTION_TOML --listen {self._address}), or "
                        "correct the SuperNode's node config"
                    ) from error
            time.sleep(PAUSE_S)


def _requests(call: FitCall) -> Iterator[pb.FitRequest]:
    yield pb.FitRequest(header=call.header())
    outbox = Outbox(call.arrays)
    for chunk in outbox:
        yield pb.FitRequest(chunk=chunk)
    yield pb.FitRequest(end=outbox.end)


def _answer(
    replies: Iterator[pb.FitReply],
    heard: Callable[[], None],
    on_progress: Callable[[Progress], None] | None,
) -> FitAnswer:
    header, inbox = pb.FitReplyHeader(), None
    for reply in replies:
        heard()
        part = reply.WhichOneof("part")
        if part == "progress":
            if on_progress is not None:
                on_progress(_progress(reply.progress))
        elif part == "header" and inbox is None:
            header = reply.header
            require_trainer(header.speaker)
            inbox = Inbox(read_layout(header.layout))
        elif part == "chunk" and inbox is not None:
            inbox.take(reply.chunk)
        elif part == "end" and inbox is not None:
            return FitAnswer(
                arrays=inbox.close(reply.end),
                terms=read_terms(header.terms),
                leaving=header.leaving,
                metrics=dict(header.metrics),
            )
        else:
            raise WireError(f"the trainer's answer has {part!r} where it should not")
    raise WireError("the trainer's answer ended too early")


def _progress(message: pb.Progress) -> Progress:
    return Progress(message.phase, int(message.done), int(message.of), message.seconds)


def _line(text: Any) -> str:
    return " ".join(str(text or "no reason given").split())
