"""One request of a client: its parts in order, progress while it waits, and the answer."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from ipfl_flower.trainer.refused import Refused
from ipfl_flower.trainer.trainer import FitReply
from ipfl_flower.trainer_api import Spec, WireError
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.messages import terms_message
from ipfl_flower.trainer_api.speaker import require_bridge, speaker
from ipfl_flower.trainer_api.tensors import (
    Arrays,
    Inbox,
    Outbox,
    layout_message,
    layout_of,
    read_layout,
    require_same,
)

T = TypeVar("T")

STATEMENT_BYTES_MAX = 1 << 20
_LAYOUT_BYTES_SPARE = 1024


class Stream:
    """A fit's stream, as the trainer sees it.

    Parameters
    ----------
    context
        gRPC's own.
    idle_s
        How long the client may take for its next message, and to take one in.
    progress_s
        How often it is told how far it is.
    """

    def __init__(
        self,
        context: "grpc.aio.ServicerContext[pb.FitRequest, pb.FitReply]",
        *,
        idle_s: float,
        progress_s: float,
    ) -> None:
        self._context = context
        self._idle_s = idle_s
        self._progress_s = progress_s
        self._began = time.monotonic()

    async def header(self) -> pb.FitHeader:
        """Read the header, and check what can be checked before the trainer is at hand."""
        header: pb.FitHeader = (await self._read("header")).header
        require_bridge(header.speaker)
        if header.role not in ("initial", "centre", "none"):
            raise WireError(f"role must be 'initial', 'centre' or 'none', is {header.role[:20]!r}")
        if header.start not in ("own", "centre"):
            raise WireError(f"start must be 'own' or 'centre', is {header.start[:20]!r}")
        if not (math.isfinite(header.coefficient) and header.coefficient >= 0):
            raise WireError(f"coefficient must be finite and ≥ 0, is {header.coefficient}")
        if len(header.statement) > STATEMENT_BYTES_MAX:
            raise WireError(f"the statement is longer than {STATEMENT_BYTES_MAX} characters")
        return header

    async def model(self, header: pb.FitHeader, expected: Mapping[str, Spec]) -> Arrays:
        """Read the model, which must be one of the expected layout, or none.

        Raises
        ------
        WireError
            It is another one; nothing is allocated for it.
        """
        inbox = Inbox(_checked_layout(header, expected))
        told = -math.inf  # the first chunk tells the client that it has the turn
        while inbox.missing:
            inbox.take((await self._read("chunk")).chunk)
            if time.monotonic() - told > self._progress_s:
                told = time.monotonic()
                await self._tell("receiving", inbox.size - inbox.missing, inbox.size)
        return inbox.close((await self._read("end")).end)

    async def accompany(
        self,
        work: "asyncio.Future[T]",
        phase: str,
        steps: Callable[[], tuple[int, int]] = lambda: (0, 0),
        deadline_s: float = math.inf,
    ) -> T:
        """Await work and tell the client how far it is; the work goes on when the client goes.

        Raises
        ------
        Refused
            The deadline has passed.
        """
        end = time.monotonic() + deadline_s
        while True:
            left = end - time.monotonic()
            done, _ = await asyncio.wait({work}, timeout=max(0.0, min(left, self._progress_s)))
            if done:
                return work.result()
            if left <= 0:
                raise Refused(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"busy for more than {deadline_s:g} s: ask again later",
                )
            await self._tell(phase, *steps())

    async def answer(self, reply: FitReply) -> None:
        """Send the reply: header, model, end."""
        await self._write(
            pb.FitReply(
                header=pb.FitReplyHeader(
                    terms=terms_message(reply.terms),
                    leaving=reply.leaving,
                    metrics=reply.metrics,
                    layout=layout_message(layout_of(reply.arrays)),
                    speaker=speaker(),
                )
            )
        )
        outbox = Outbox(reply.arrays)
        for chunk in outbox:
            await self._write(pb.FitReply(chunk=chunk))
        await self._write(pb.FitReply(end=outbox.end))

    async def _tell(self, phase: str, done: int, of: int) -> None:
        seconds = time.monotonic() - self._began
        await self._write(
            pb.FitReply(progress=pb.Progress(phase=phase, done=done, of=of, seconds=seconds))
        )

    async def _read(self, part: str) -> Any:
        message = await self._in_time(self._context.read(), f"send its {part}")
        if message is grpc.aio.EOF:
            raise WireError(f"the request ended before its {part} came")
        if message.WhichOneof("part") != part:
            raise WireError(f"{message.WhichOneof('part')} came where the {part} should")
        return message

    async def _write(self, message: pb.FitReply) -> None:
        await self._in_time(self._context.write(message), "take the answer in")

    async def _in_time(self, awaitable: Any, what: str) -> Any:
        try:
            return await asyncio.wait_for(awaitable, self._idle_s)
        except TimeoutError as error:
            raise Refused(
                grpc.StatusCode.ABORTED,
                f"the client did not {what} within {self._idle_s:g} s",
            ) from error


def read_statement(text: str) -> dict[str, Any]:
    """Read the receipt that came with a request.

    Raises
    ------
    WireError
        It is no JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("the statement is no JSON") from error
    if not isinstance(value, dict):
        raise WireError("the statement must be a JSON object")
    return value


def _checked_layout(header: pb.FitHeader, expected: Mapping[str, Spec]) -> dict[str, Spec]:
    most = 2 * layout_message(expected).ByteSize() + _LAYOUT_BYTES_SPARE
    if len(header.layout) > most:
        raise WireError(f"the layout has {len(header.layout)} bytes, at most {most} are taken")
    try:
        layout = read_layout(pb.Layout.FromString(header.layout))
    except DecodeError as error:
        raise WireError("the layout can't be read") from error
    if header.role == "none":
        if layout:
            raise WireError("a model came with role 'none'")
    else:
        require_same(layout, expected)
    return layout
