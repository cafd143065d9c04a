"""One fit at a time: the others wait in a short queue, or are refused."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import grpc

from ipfl_flower.trainer.refused import Refused

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Turn:
    """The right to use the model, from the upload of a request to the end of its answer."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self.work: asyncio.Future[object] | None = None

    def start(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Start work in the one thread that does it; once started, it runs to its end."""
        # Its logs, too, are about the request that it is for.
        within = copy_context().run
        future = asyncio.get_running_loop().run_in_executor(self._thread, within, work)
        self.work = future  # type: ignore[assignment]
        return future


class Turns:
    """Gives turns, first come, first served.

    Parameters
    ----------
    waiting_max
        How many may wait.
    """

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting = 0
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trainer")
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether somebody has the turn."""
        return self._lock.locked()

    @asynccontextmanager
    async def take(
        self, wait: Callable[["asyncio.Future[Any]"], Awaitable[object]]
    ) -> AsyncIterator[Turn]:
        """Wait for a turn and hold it. Work that still runs on leaving keeps it until it is done.

        Parameters
        ----------
        wait
            Awaits the turn, and may give up by raising.

        Raises
        ------
        Refused
            Too many are waiting, or the trainer is stopping.
        """
        self._require_open()
        if self.busy and self._waiting >= self._waiting_max:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"busy, and {self._waiting} more requests are waiting: ask again later",
            )
        acquired = asyncio.ensure_future(self._lock.acquire())
        self._waiting += 1
        try:
            await wait(acquired)
        except BaseException:
            if not acquired.cancel() and not acquired.cancelled():
                self._lock.release()
            raise
        finally:
            self._waiting -= 1
        turn = Turn(self._thread)
        try:
            self._require_open()
            yield turn
        finally:
            if turn.work is None or turn.work.done():
                self._lock.release()
            else:
                turn.work.add_done_callback(self._outlived)

    async def close(self, grace_s: float) -> bool:
        """Give no more turns, and wait for the work that runs; tell whether it has ended."""
        self._closed = True
        try:
            await asyncio.wait_for(self._lock.acquire(), grace_s)
        except TimeoutError:
            return False
        self._thread.shutdown()
        return True

    def _require_open(self) -> None:
        if self._closed:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "the trainer is stopping")

    def _outlived(self, work: "asyncio.Future[object]") -> None:
        """Let the next one in: the client that this work was for has gone."""
        self._lock.release()
        error = work.exception()
        if error is None:
            logger.info("finished a request whose client had gone")
        else:
            logger.error("a request whose client had gone failed: %s", error)
