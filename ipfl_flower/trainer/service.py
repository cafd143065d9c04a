"""The trainer as a gRPC service: describe and fit, one fit at a time.

A request's header is checked when it comes. Its model is read when it is its turn, into memory
whose size this trainer's own model decides. From then on the turn is its own until its answer is
sent; a fit whose client goes away is finished and committed, and answered from disk when asked for
again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import torch

from ipfl_flower import logs
from ipfl_flower.compatibility import VERSION
from ipfl_flower.trainer import progress
from ipfl_flower.trainer.loaded import LoadedInstitution
from ipfl_flower.trainer.refused import Refused, refusal
from ipfl_flower.trainer.stream import Stream, read_statement
from ipfl_flower.trainer.trainer import FitReply, FitRequest, Trainer
from ipfl_flower.trainer.turns import Turn, Turns
from ipfl_flower.trainer_api import Description
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.messages import read_metadata
from ipfl_flower.trainer_api.speaker import require_bridge
from ipfl_flower.trainer_api.trainer_pb2_grpc import TrainerServicer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceOptions:
    """What a service puts up with.

    Attributes
    ----------
    waiting_max : int
        Requests that may wait for their turn.
    waiting_s : float
        How long each may wait.
    idle_s : float
        How long a client may pause in its stream.
    progress_s : float
        How often a client is told how far its request is.
    """

    waiting_max: int = 4
    waiting_s: float = 600.0
    idle_s: float = 60.0
    progress_s: float = 2.0


class TrainerService(TrainerServicer):
    """Serves one institution's trainer.

    Parameters
    ----------
    loaded
        The institution.
    options
        Its patience.
    """

    def __init__(self, loaded: LoadedInstitution, options: ServiceOptions) -> None:
        self._loaded = loaded
        self._options = options
        self._turns = Turns(options.waiting_max)

    async def load(self) -> Trainer:
        """Read the institution and its data; requests wait until it is done.

        Raises
        ------
        InstitutionError, TaskError, TaskDataError
            As `LoadedInstitution.refresh`.
        """
        async with self._turns.take(lambda acquired: acquired) as turn:
            return await turn.start(self._loaded.refresh)

    async def close(self, grace_s: float) -> bool:
        """Begin nothing more, and wait for what runs; tell whether it has ended."""
        return await self._turns.close(grace_s)

    async def Describe(  # noqa: N802  # gRPC's name
        self, request: pb.DescribeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.DescribeReply:
        """Say what this trainer is, by the institution.toml as it is now, or as last read."""
        async with _aborting(context):
            require_bridge(request.speaker)
            if not self._turns.busy:
                await self.load()
            trainer = self._loaded.trainer
            if trainer is None:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "the trainer is still loading its data")
            return _description(trainer).message()

    async def Fit(  # noqa: N802  # gRPC's name
        self, _: Any, context: "grpc.aio.ServicerContext[pb.FitRequest, pb.FitReply]"
    ) -> None:
        """Serve one request of the market."""
        options = self._options
        stream = Stream(context, idle_s=options.idle_s, progress_s=options.progress_s)
        with logs.context(**read_metadata(context.invocation_metadata())) as about:
            async with _aborting(context):
                header = await stream.header()
                about(round=header.round)
                async with self._turns.take(
                    lambda acquired: stream.accompany(
                        acquired, "waiting", deadline_s=options.waiting_s
                    )
                ) as turn:
                    await stream.answer(await self._fit(header, stream, turn))

    async def _fit(self, header: pb.FitHeader, stream: Stream, turn: Turn) -> FitReply:
        trainer = await stream.accompany(turn.start(self._loaded.refresh), "loading")
        institution = trainer.institution
        institution.limits.require_task(header.task, institution.task.name)
        statement = read_statement(header.statement)
        arrays = await stream.model(header, trainer.learner.layout)
        request = FitRequest(
            round=header.round,
            centre=arrays if header.role == "centre" else None,
            initial=arrays if header.role == "initial" else None,
            coefficient=header.coefficient,
            start="centre" if header.start == "centre" else "own",
            train=header.train,
            receipt=statement,
        )
        steps = (0, 0)

        def fit() -> FitReply:
            with progress.watched(step):
                return trainer.fit(request)

        def step(done: int, of: int) -> None:
            nonlocal steps
            steps = (done, of)

        reply = await stream.accompany(turn.start(fit), "fitting", lambda: steps)
        logger.info("round %d of %s: answered", header.round, institution.name)
        return reply


def _description(trainer: Trainer) -> Description:
    institution = trainer.institution
    return Description(
        name=institution.name,
        versions={"ipfl-flower": VERSION, "torch": str(torch.__version__)},
        task=institution.task.name,
        layout=trainer.learner.layout,
        terms=institution.terms,
        leaving=institution.leaving,
        device=institution.device,
    )


@asynccontextmanager
async def _aborting(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """Answer errors as gRPC statuses."""
    try:
        yield
    except (grpc.aio.AbortError, asyncio.CancelledError):
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, the service goes on
        await _abort(context, refusal(error))


async def _abort(context: "grpc.aio.ServicerContext[Any, Any]", refused: Refused) -> NoReturn:
    logger.warning("refused a request: %s: %s", refused.code.name, refused)
    await context.abort(refused.code, str(refused))
    raise AssertionError("abort raises")
